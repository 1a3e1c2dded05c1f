// What one JavaScript environment (the main thread, a worker thread, a second load of the addon) has of its own:
// its engines, its unsettled tasks, and the road on which their events come back.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "addon_api.h"
#include "mailbox.h"
#include "worker.h"

namespace swap::binding {

// An engine as JavaScript knows it. It outlives its JS object until its thread has ended.
struct EngineHandle {
  uint64_t id = 0;
  std::unique_ptr<Worker> worker;
  bool ended = false;
  int64_t reported_bytes = 0;  // to V8, as memory outside of its heap
  std::vector<Napi::Promise::Deferred> closing;
};

// Libraries are opened on a thread of Node's pool. Their static objects must not be made while the process is taking
// others down, so an environment ends after what it is opening, and opens nothing more.
struct Door {
  std::mutex mutex;  // held while libraries are opened
  std::atomic<bool> shut{false};
};

class Environment {
 public:
  explicit Environment(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  uint64_t next_id() { return ++last_id_; }
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }
  const std::shared_ptr<Door>& door() const { return door_; }

  // Starts an engine's thread. Throws a JS exception if there is none to be had.
  std::shared_ptr<EngineHandle> start_engine(const EngineFactory& factory);

  // Queues a job and gives its NativeTask. `engine` is kept alive until the job is settled.
  Napi::Object start_task(Napi::Object engine, const std::shared_ptr<EngineHandle>& handle, uint64_t id,
                          std::shared_ptr<Job> job, Napi::Function on_event);

  Napi::Promise close_engine(EngineHandle& handle);

  // createEngine's alone: the class is constructed only while this is set.
  std::shared_ptr<EngineHandle> newborn;
  Napi::FunctionReference engine_class;

 private:
  // Of the JS thread alone: jobs know their id and nothing of these.
  struct Task {
    std::shared_ptr<EngineHandle> handle;
    Napi::Promise::Deferred deferred;
    Napi::ObjectReference engine;
    Napi::FunctionReference on_event;
    Napi::ObjectReference trace;  // an Error made in the call, for its stack
  };

  static void deliver(napi_env env, napi_value, void* self, void*);
  void receive(uint64_t id, Progress& progress);
  void receive(uint64_t id, TrainerState& state);
  void receive(uint64_t id, Settled& settled);
  void receive(uint64_t id, Ended&);
  void send_event(uint64_t id, Napi::Value event);
  Napi::Value rejection(const Task& task, Settled& settled);
  // Stops all engines for good and forgets all tasks. Blocks until the engines' next block.
  void shutdown();
  void shut_down_at_exit();

  // While something is held, the event loop does not end by itself.
  void hold();
  void release();

  Napi::Env env_;
  napi_threadsafe_function wake_ = nullptr;
  std::shared_ptr<Mailbox> mailbox_;
  const std::shared_ptr<Door> door_ = std::make_shared<Door>();
  uint64_t last_id_ = 0;
  size_t held_ = 0;
  bool over_ = false;
  std::map<uint64_t, std::shared_ptr<EngineHandle>> engines_;
  std::unordered_map<uint64_t, Task> tasks_;
};

}  // namespace swap::binding
