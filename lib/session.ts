/** What the calls of one personalizer work with. */
import type { Controls } from './controls.ts'
import type { Model } from './model/index.ts'
import type { EngineInfo, NativeEngine } from './native.ts'

export interface Session {
  model: Model
  engine: NativeEngine
  engineInfo: EngineInfo
  controls: Controls
}
