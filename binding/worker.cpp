#include "worker.h"

#include <algorithm>
#include <new>
#include <utility>

namespace swap::binding {

namespace {

Status cancelled() { return {"SWAP_CANCELLED", "the job was cancelled before it began", ""}; }

Status out_of_memory(const char* what) {
  return {"SWAP_MEMORY_HOST", std::string("out of memory ") + what, "close what is not needed, or use a smaller model"};
}

bool overtakes(const Job& job) { return job.kind() != JobKind::kLoad && job.kind() != JobKind::kLearn; }

}  // namespace

Worker::Worker(const EngineFactory& factory, std::function<void()> ended)
    : factory_(factory), ended_(std::move(ended)) {
  running_.reserve(2);
  thread_ = std::thread([this] { loop(); });
}

Worker::~Worker() {
  close();
  join();
}

bool Worker::submit(std::shared_ptr<Job> job) {
  {
    std::lock_guard lock(mutex_);
    if (closing_) return false;
    waiting_.push_back(std::move(job));
  }
  changed_.notify_one();
  return true;
}

void Worker::cancel(const std::shared_ptr<Job>& job) {
  {
    std::lock_guard lock(mutex_);
    job->cancelled_ = true;
    auto found = std::find(waiting_.begin(), waiting_.end(), job);
    if (found == waiting_.end()) return;
    waiting_.erase(found);
  }
  job->settle(cancelled());
}

void Worker::close() {
  std::deque<std::shared_ptr<Job>> dropped;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    dropped.swap(waiting_);
    for (auto& job : running_) job->cancelled_ = true;
  }
  changed_.notify_one();
  for (auto& job : dropped) job->settle(cancelled());
}

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<Job> Worker::take(bool between_steps) {
  auto next = waiting_.begin();
  while (next != waiting_.end() && !overtakes(**next) && (*next)->kind() != JobKind::kLoad) ++next;
  if (next == waiting_.end() || !overtakes(**next)) next = between_steps ? waiting_.end() : waiting_.begin();
  if (next == waiting_.end()) return nullptr;
  auto job = std::move(*next);
  waiting_.erase(next);
  running_.push_back(job);
  return job;
}

void Worker::loop() {
  Engine* engine = factory_.create();
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closing_ || (job = take(false)); });
    }
    if (!job) break;
    run(engine, job);
  }
  if (engine) factory_.destroy(engine);
  ended_();
}

void Worker::run(Engine* engine, const std::shared_ptr<Job>& job) {
  Status status;
  try {
    Hooks hooks;
    hooks.cancelled = &job->cancelled_;
    if (job->kind() == JobKind::kLearn) hooks.yield = [this, engine, &job] { serve_between_steps(engine, *job); };
    status = engine ? job->run(*engine, hooks) : out_of_memory("while making the engine");
  } catch (const std::bad_alloc&) {
    status = out_of_memory("in a job");
  } catch (...) {
    status = {"SWAP_ENGINE_INTERNAL", "a job ended with an unknown exception",
              "please report this with the call that led to it"};
  }
  {
    std::lock_guard lock(mutex_);
    running_.pop_back();
  }
  job->settle(std::move(status));
}

void Worker::serve_between_steps(Engine* engine, const Job& learning) {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::lock_guard lock(mutex_);
      // A cancelled learning ends first: what waits is next in the queue anyway.
      if (closing_ || learning.cancelled_ || !(job = take(true))) return;
    }
    run(engine, job);
  }
}

}  // namespace swap::binding
