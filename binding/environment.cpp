#include "environment.h"

#include <string>
#include <system_error>
#include <utility>

#include "convert.h"

namespace swap::binding {

namespace {

// `error` with the stack of the call that led to it: the error itself is made when no JavaScript runs.
void borrow_stack(Napi::Object error, const Napi::ObjectReference& trace, const std::string& message) {
  try {
    Napi::Value stack = trace.Value().Get("stack");
    if (!stack.IsString()) return;
    const std::string text = stack.As<Napi::String>();
    const size_t frames = text.find("\n    at ");
    if (frames != std::string::npos) error.Set("stack", "Error: " + message + text.substr(frames));
  } catch (const Napi::Error&) {
    // A program's own Error.prepareStackTrace failed; the error goes without.
  }
}

}  // namespace

Environment::Environment(Napi::Env env) : env_(env) {
  // Exceptions carry a failed status out of the addon's init; afterwards `wake_` is there.
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "swap engine"), 0,
                                                       1, nullptr, nullptr, this, &Environment::deliver, &wake_);
  if (status == napi_ok) status = napi_unref_threadsafe_function(env, wake_);
  if (status != napi_ok) throw Napi::Error::New(env);
  mailbox_ = std::make_shared<Mailbox>(
      [wake = wake_] { napi_call_threadsafe_function(wake, nullptr, napi_tsfn_nonblocking); });
  // After the thread-safe function, so that it runs before that one's own hook.
  const auto hook = [](void* self) {
    static_cast<Environment*>(self)->shutdown();
    napi_release_threadsafe_function(static_cast<Environment*>(self)->wake_, napi_tsfn_abort);
  };
  status = napi_add_env_cleanup_hook(env, hook, this);
  if (status != napi_ok) throw Napi::Error::New(env);
  shut_down_at_exit();
}

// process.exit() and an uncaught exception skip the hook on the main thread: the libraries' static objects would be
// destroyed under an engine that still computes.
void Environment::shut_down_at_exit() {
  Napi::Value process = env_.Global().Get("process");
  if (!process.IsObject()) return;
  Napi::Value once = process.As<Napi::Object>().Get("once");
  if (!once.IsFunction()) return;
  auto listener = Napi::Function::New(env_, [this](const Napi::CallbackInfo&) { shutdown(); });
  once.As<Napi::Function>().Call(process, {Napi::String::New(env_, "exit"), listener});
}

// No JavaScript may run on a task's behalf any more, and no thread may be left behind.
void Environment::shutdown() {
  if (std::exchange(over_, true)) return;
  door_->shut = true;
  { std::lock_guard wait(door_->mutex); }  // for what is being opened
  mailbox_->shut();
  for (auto& [id, handle] : engines_) handle->worker->close();
  for (auto& [id, handle] : engines_) handle->worker->join();
  engines_.clear();
  tasks_.clear();
  engine_class.Reset();
}

std::shared_ptr<EngineHandle> Environment::start_engine(const EngineFactory& factory) {
  if (over_) throw make_error(env_, {"SWAP_DISPOSED", "the process is about to exit", ""});
  auto handle = std::make_shared<EngineHandle>();
  handle->id = next_id();
  try {
    handle->worker = std::make_unique<Worker>(factory, [mailbox = mailbox_, id = handle->id] {
      mailbox->post({id, Ended{}});
    });
  } catch (const std::system_error& error) {
    throw make_error(env_, {"SWAP_ENGINE_THREAD", std::string("cannot start an engine's thread: ") + error.what(),
                            "close engines that are not needed, or raise the limit on threads"});
  }
  engines_[handle->id] = handle;
  return handle;
}

Napi::Object Environment::start_task(Napi::Object engine, const std::shared_ptr<EngineHandle>& handle, uint64_t id,
                                     std::shared_ptr<Job> job, Napi::Function on_event) {
  auto deferred = Napi::Promise::Deferred::New(env_);
  auto cancel = [handle = std::weak_ptr(handle), job = std::weak_ptr(job)](const Napi::CallbackInfo&) {
    const auto the_handle = handle.lock();
    const auto the_job = job.lock();
    if (the_handle && the_job) the_handle->worker->cancel(the_job);
  };
  auto task = Napi::Object::New(env_);
  task.Set("promise", deferred.Promise());
  task.Set("cancel", Napi::Function::New(env_, cancel, "cancel"));
  tasks_.emplace(id, Task{handle, deferred, Napi::Persistent(engine), Napi::Persistent(on_event),
                          Napi::Persistent(Napi::Error::New(env_, "").Value())});
  hold();
  if (!handle->worker->submit(std::move(job))) {
    mailbox_->post({id, Settled{{"SWAP_DISPOSED", "the engine is closed", "create a new one"}, {}}});
  }
  return task;
}

Napi::Promise Environment::close_engine(EngineHandle& handle) {
  auto deferred = Napi::Promise::Deferred::New(env_);
  if (handle.ended) {
    deferred.Resolve(env_.Undefined());
  } else {
    handle.closing.push_back(deferred);
    hold();
    handle.worker->close();
  }
  return deferred.Promise();
}

void Environment::hold() {
  if (held_++ == 0) napi_ref_threadsafe_function(env_, wake_);
}

void Environment::release() {
  if (--held_ == 0) napi_unref_threadsafe_function(env_, wake_);
}

void Environment::deliver(napi_env env, napi_value, void* self, void*) {
  if (!env) return;  // the environment is gone
  auto& environment = *static_cast<Environment*>(self);
  // One message a call: what awaits it has run before the next one comes.
  auto message = environment.mailbox_->take();
  if (!message) return;
  try {
    std::visit([&](auto& body) { environment.receive(message->id, body); }, message->body);
  } catch (const std::exception&) {
    // Only where JavaScript can run no more: the environment is being terminated.
  }
}

void Environment::receive(uint64_t id, Progress& progress) {
  Napi::Object event = write(env_, progress).As<Napi::Object>();
  event.Set("type", "progress");
  send_event(id, event);
}

void Environment::receive(uint64_t id, TrainerState& state) {
  Napi::Object event = Napi::Object::New(env_);
  event.Set("type", "checkpoint");
  event.Set("state", write(env_, state));
  send_event(id, event);
}

void Environment::send_event(uint64_t id, Napi::Value event) {
  const auto task = tasks_.find(id);
  if (task == tasks_.end()) return;
  napi_value argument = event;
  const napi_status status =
      napi_call_function(env_, env_.Undefined(), task->second.on_event.Value(), 1, &argument, nullptr);
  if (status != napi_pending_exception) return;
  // A listener's exception is its program's to handle, as an event emitter's would be; the task goes on.
  napi_value exception;
  if (napi_get_and_clear_last_exception(env_, &exception) == napi_ok) napi_fatal_exception(env_, exception);
}

void Environment::receive(uint64_t id, Settled& settled) {
  auto node = tasks_.extract(id);
  if (node.empty()) return;
  Task& task = node.mapped();
  release();
  if (settled.status.ok()) {
    if (const auto* info = std::get_if<EngineInfo>(&settled.result)) {
      // A model that is loaded again takes the first one's place.
      Napi::MemoryManagement::AdjustExternalMemory(env_, info->weight_bytes - task.handle->reported_bytes);
      task.handle->reported_bytes = info->weight_bytes;
    }
    try {
      task.deferred.Resolve(std::visit([this](auto& result) { return write(env_, result); }, settled.result));
    } catch (const Napi::Error& error) {  // no room for the result
      task.deferred.Reject(error.Value());
    }
  } else {
    task.deferred.Reject(rejection(task, settled));
  }
}

Napi::Value Environment::rejection(const Task& task, Settled& settled) {
  Napi::Object error = make_error(env_, settled.status).Value();
  borrow_stack(error, task.trace, settled.status.message);
  if (auto* learnt = std::get_if<LearnResult>(&settled.result); learnt && !learnt->state.tensors.empty()) {
    error.Set("state", write(env_, learnt->state));
  }
  return error;
}

void Environment::receive(uint64_t id, Ended&) {
  auto node = engines_.extract(id);
  if (node.empty()) return;
  EngineHandle& handle = *node.mapped();
  handle.worker->join();  // its thread is past its last statement, or about to be
  handle.ended = true;
  if (handle.reported_bytes != 0) Napi::MemoryManagement::AdjustExternalMemory(env_, -handle.reported_bytes);
  for (auto& deferred : std::exchange(handle.closing, {})) {
    release();
    deferred.Resolve(env_.Undefined());
  }
}

}  // namespace swap::binding
