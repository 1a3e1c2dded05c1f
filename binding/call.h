// A job that is one call of the engine and tells a mailbox what happens.
#pragma once

#include <memory>
#include <utility>

#include "mailbox.h"
#include "worker.h"

namespace swap::binding {

template <JobKind job_kind, typename RequestType, typename ResultType,
          Status (Engine::*method)(const RequestType&, const Hooks&, ResultType&) noexcept>
class Call final : public Job {
 public:
  using Request = RequestType;

  Call(uint64_t id, Request request, std::shared_ptr<Mailbox> mailbox)
      : Job(job_kind), id_(id), request_(std::move(request)), mailbox_(std::move(mailbox)) {}

  Status run(Engine& engine, Hooks& hooks) override {
    hooks.progress = [this](const Progress& progress) { mailbox_->post({id_, progress}); };
    if constexpr (job_kind == JobKind::kLearn) {
      hooks.checkpoint = [this](const TrainerState& state) { mailbox_->post({id_, state}); };
    }
    return (engine.*method)(request_, hooks, result_);
  }

  void settle(Status status) noexcept override {
    request_ = {};  // its pictures and vectors are not needed any more, whoever still holds the job
    mailbox_->post({id_, Settled{std::move(status), std::move(result_)}});
  }

 private:
  const uint64_t id_;
  Request request_;
  ResultType result_;
  const std::shared_ptr<Mailbox> mailbox_;
};

using LoadCall = Call<JobKind::kLoad, LoadRequest, EngineInfo, &Engine::load>;
using AttachCall = Call<JobKind::kAttach, AttachRequest, AttachInfo, &Engine::attach>;
using LearnCall = Call<JobKind::kLearn, LearnRequest, LearnResult, &Engine::learn>;
using GenerateCall = Call<JobKind::kGenerate, GenerateRequest, GenerateResult, &Engine::generate>;
using EvaluateCall = Call<JobKind::kEvaluate, EvaluateRequest, EvaluateResult, &Engine::evaluate>;

}  // namespace swap::binding
