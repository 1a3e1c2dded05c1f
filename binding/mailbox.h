// What the workers have to tell one JS environment, in order. Any thread posts, the JS thread takes.
//
// A slow reader never stalls a worker and never makes the box grow without end: beyond the limit the oldest
// progress gives way to the newest, and a checkpoint to the same job's next one (150 MB each at width 768). Results are
// never dropped.
//
// To wake the reader costs a core a tenth of a millisecond, and a step of a small model lasts three. So progress that
// says that more comes soon waits for it where the reader was woken just before.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <variant>

#include "../cpp/engine.h"

namespace swap::binding {

using Result = std::variant<EngineInfo, AttachInfo, LearnResult, GenerateResult, EvaluateResult>;

// A job's end.
struct Settled {
  Status status;
  Result result;
};

// A worker's end: its engine is gone and its thread can be joined.
struct Ended {};

struct Message {
  uint64_t id = 0;  // the job's; of `Ended` the engine's
  std::variant<Progress, TrainerState, Settled, Ended> body;
};

class Mailbox {
 public:
  using Clock = std::chrono::steady_clock;

  // `wake` is called when there are messages that do not wait, and when take() leaves some: by then the reader may have
  // been there already. Never after shut(). `pause`: between two wakes where progress can wait.
  explicit Mailbox(std::function<void()> wake, size_t progress_limit = 1024, Clock::duration pause = kSoon);

  void post(Message message) noexcept;

  // The oldest message, if there is one. Wakes again when there are more, so that the reader is called once for each.
  std::optional<Message> take();

  // From now on messages are thrown away and nobody is woken.
  void shut();

 private:
  void wake();
  bool can_wait(const Message& message) const;  // with the mutex held

  const std::function<void()> wake_;
  const size_t progress_limit_;
  const Clock::duration pause_;
  // Of `wake_`, apart from the messages': the reader is awake, and wants them, before the poster is back from waking
  // it.
  std::mutex waking_;
  std::mutex mutex_;  // of all below
  std::deque<Message> messages_;
  size_t progress_ = 0;            // of the messages
  bool called_ = false;            // the reader comes, or is there, and has not found the box empty since
  Clock::time_point called_at_;    // the last time; at first long ago
  std::atomic<bool> shut_{false};  // read by wake() with the other mutex
};

}  // namespace swap::binding
