/** What the calls of one personalizer work with. */
import type { Controls } from './controls.ts'
import type { Model } from './model/index.ts'
import type { Loras } from './model/lora.ts'
import type { EngineInfo, LoadRequest, NativeEngine } from './native.ts'

export interface Session {
  model: Model
  engine: NativeEngine
  engineInfo: EngineInfo
  controls: Controls
  /** How the model was loaded, without LoRA. */
  request: LoadRequest
  /** What is merged into its weights. */
  loras: Loras
}
