// One engine, the thread that it lives on, and the queue of jobs before it. Knows nothing of JavaScript.
//
// Jobs run one after another. All but a load overtake learnings, also the one that runs:
// it is done between two of its steps. Nothing overtakes a load.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../cpp/engine.h"

namespace swap::binding {

enum class JobKind { kLoad, kAttach, kLearn, kGenerate, kEvaluate };

class Job {
 public:
  explicit Job(JobKind kind) : kind_(kind) {}
  virtual ~Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  JobKind kind() const { return kind_; }

  // On the worker's thread. `hooks` has the cancel flag and, for a learning, the yield; the job adds the others.
  virtual Status run(Engine& engine, Hooks& hooks) = 0;

  // Exactly once: after run() and on the worker's thread, or instead of it on the thread that cancelled or closed.
  virtual void settle(Status status) noexcept = 0;

 private:
  friend class Worker;
  const JobKind kind_;
  std::atomic<bool> cancelled_{false};
};

class Worker {
 public:
  // The engine is made and destroyed on the worker's thread; `ended` is the last thing that this thread does.
  // Throws std::system_error when the system gives no thread.
  Worker(const EngineFactory& factory, std::function<void()> ended);
  ~Worker();  // closes and joins
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // False, and the job is left alone, when the worker is closed.
  bool submit(std::shared_ptr<Job> job);

  // A job that waits settles at once, before this returns; one that runs does at the engine's next block.
  void cancel(const std::shared_ptr<Job>& job);

  // Cancels what runs and what waits. Does not block.
  void close();

  // Waits for the thread's end, which close() brings about. From one thread only.
  void join();

 private:
  void loop();
  void run(Engine* engine, const std::shared_ptr<Job>& job);
  void serve_between_steps(Engine* engine, const Job& learning);
  std::shared_ptr<Job> take(bool between_steps);  // with the mutex held; null: nothing to do

  const EngineFactory& factory_;
  const std::function<void()> ended_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> waiting_;
  std::vector<std::shared_ptr<Job>> running_;  // a learning, and what is done between its steps
  bool closing_ = false;
  std::thread thread_;  // last: it starts when all else is there
};

}  // namespace swap::binding
