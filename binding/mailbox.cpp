#include "mailbox.h"

#include <algorithm>
#include <utility>

namespace swap::binding {

namespace {

bool is_progress(const Message& message) { return std::holds_alternative<Progress>(message.body); }
bool is_checkpoint(const Message& message) { return std::holds_alternative<TrainerState>(message.body); }

}  // namespace

Mailbox::Mailbox(std::function<void()> wake, size_t progress_limit, Clock::duration pause)
    : wake_(std::move(wake)), progress_limit_(progress_limit), pause_(pause), called_at_(Clock::now() - pause) {}

void Mailbox::post(Message message) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (shut_) return;
    if (is_progress(message) && ++progress_ > progress_limit_) {
      messages_.erase(std::find_if(messages_.begin(), messages_.end(), is_progress));
      --progress_;
    }
    if (is_checkpoint(message)) {
      const auto older = std::find_if(messages_.begin(), messages_.end(),
                                      [&](const Message& m) { return m.id == message.id && is_checkpoint(m); });
      if (older != messages_.end()) messages_.erase(older);
    }
    const bool waits = called_ || can_wait(message);
    messages_.push_back(std::move(message));
    if (waits) return;
    called_ = true, called_at_ = Clock::now();
  }
  wake();
}

std::optional<Message> Mailbox::take() {
  std::optional<Message> message;
  {
    std::lock_guard lock(mutex_);
    called_ = !messages_.empty();
    if (!called_) return {};
    message = std::move(messages_.front());
    messages_.pop_front();
    if (is_progress(*message)) --progress_;
    called_ = !messages_.empty();
    if (!called_) return message;
  }
  wake();
  return message;
}

bool Mailbox::can_wait(const Message& message) const {
  const auto* progress = std::get_if<Progress>(&message.body);
  return progress && progress->soon && Clock::now() - called_at_ < pause_;
}

void Mailbox::shut() {
  {
    std::lock_guard lock(mutex_);
    shut_ = true;
    messages_.clear();
  }
  std::lock_guard wait(waking_);  // for a wake that has begun
}

void Mailbox::wake() {
  std::lock_guard lock(waking_);
  if (!shut_) wake_();
}

}  // namespace swap::binding
