// Drives the binding's worker and mailbox with the fake engine from many threads, without Node: what ThreadSanitizer
// and AddressSanitizer watch. Every job must settle exactly once, whatever is cancelled or closed when.
//
// Usage: worker_stress [rounds] [seed]
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../../binding/call.h"

namespace {

using namespace swap;
using namespace swap::binding;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++failures;
}

LoadRequest load_request() {
  LoadRequest request;
  TextEncoderSpec encoder;
  encoder.width = 8;
  request.spec.text_encoders.push_back(encoder);
  return request;
}

LearnRequest learn_request(std::mt19937& random) {
  LearnRequest request;
  request.image = {4, 4, std::vector<uint8_t>(48, 100)};
  request.templates.push_back({{{1, 2, 3}}, 1});
  request.steps = 1 + static_cast<int64_t>(random() % 40);
  request.seed = random() % 4 == 0 ? 9001 : static_cast<int64_t>(random() % 10);
  request.stages = 2;
  request.checkpoint_every = 3;
  return request;
}

GenerateRequest generate_request(std::mt19937& random) {
  GenerateRequest request;
  request.prompt.ids = {{1, 2, 3}};
  request.seeds = {random() % 6 == 0 ? 9001 : static_cast<int64_t>(random() % 10)};
  request.steps = 3;
  request.width = request.height = 8;
  return request;
}

EvaluateRequest evaluate_request(std::mt19937& random) {
  EvaluateRequest request;
  request.op = random() % 8 == 0 ? "flood" : "echo";
  request.inputs.push_back({"x", {2000}, std::vector<float>(2000)});
  return request;
}

struct AnyJob {
  std::shared_ptr<Job> job;
  bool endless;  // until it is cancelled
};

AnyJob any_job(uint64_t id, std::mt19937& random, const std::shared_ptr<Mailbox>& mailbox) {
  switch (random() % 4) {
    case 0: {
      auto request = learn_request(random);
      return {std::make_shared<LearnCall>(id, request, mailbox), request.seed == 9001};
    }
    case 1:
      return {std::make_shared<EvaluateCall>(id, evaluate_request(random), mailbox), false};
    default: {
      auto request = generate_request(random);
      return {std::make_shared<GenerateCall>(id, request, mailbox), request.seeds[0] == 9001};
    }
  }
}

// Some threads submit and cancel, one reads the mailbox. In odd rounds the worker is closed in the midst; in even ones
// it is left to come to the queue's end.
void round(unsigned seed) {
  constexpr int kSubmitters = 3, kJobs = 25;
  std::atomic<int> wakes{0};
  auto mailbox = std::make_shared<Mailbox>([&] { ++wakes; }, 64);
  std::atomic<bool> done{false};
  std::atomic<uint64_t> last_id{0};
  std::atomic<size_t> ends{0};
  std::map<uint64_t, int> settled;  // of the reader's thread
  std::set<std::string> codes;
  bool ended = false;
  std::set<uint64_t> accepted[kSubmitters];

  const auto drain = [&] {
    while (auto message = mailbox->take()) {
      if (std::holds_alternative<Ended>(message->body)) ended = true;
      if (auto* end = std::get_if<Settled>(&message->body)) {
        ++settled[message->id];
        ++ends;
        codes.insert(end->status.code);
      } else {
        expect(!settled.contains(message->id), "an event came after the end of its job");
      }
    }
  };

  {
    Worker worker(*swap_engine(), [&] { mailbox->post({0, Ended{}}); });
    const uint64_t load = ++last_id;
    worker.submit(std::make_shared<LoadCall>(load, load_request(), mailbox));
    accepted[0].insert(load);
    std::thread reader([&] {
      while (!done) {
        drain();
        std::this_thread::yield();
      }
    });
    std::vector<std::thread> submitters;
    for (int s = 0; s < kSubmitters; ++s) {
      submitters.emplace_back([&, s] {
        std::mt19937 random(seed * 31 + static_cast<unsigned>(s));
        std::vector<std::shared_ptr<Job>> mine;
        std::map<const Job*, bool> endless;
        for (int i = 0; i < kJobs; ++i) {
          const uint64_t id = ++last_id;
          auto [job, lasts] = any_job(id, random, mailbox);
          endless[job.get()] = lasts;
          if (worker.submit(job)) {
            accepted[s].insert(id);
            mine.push_back(job);
          }
          if (!mine.empty() && random() % 3 == 0) worker.cancel(mine[random() % mine.size()]);
          if (random() % 4 == 0) std::this_thread::yield();
        }
        // Without these the queue's end never comes.
        for (auto& job : mine) {
          if (seed % 2 == 0 && endless.at(job.get())) worker.cancel(job);
        }
      });
    }
    while (seed % 2 == 1 && last_id < kSubmitters * kJobs / 2) std::this_thread::yield();
    if (seed % 2 == 1) worker.close();
    for (auto& thread : submitters) thread.join();
    while (seed % 2 == 0 && ends < last_id) std::this_thread::yield();
    worker.close();
    worker.join();
    done = true;
    reader.join();
  }
  drain();

  expect(ended, "the worker did not tell its end");
  size_t jobs = 0;
  for (auto& ids : accepted) {
    jobs += ids.size();
    for (uint64_t id : ids)
      expect(settled[id] == 1, "job " + std::to_string(id) + " settled " + std::to_string(settled[id]) + " times");
  }
  expect(settled.size() == jobs, "a job that was refused was settled");
  for (auto& code : codes) {
    expect(code.empty() || code == "SWAP_CANCELLED" || code == "SWAP_ENGINE_STATE", "unexpected code " + code);
  }
}

// Once a box is shut nobody is woken, though some are about to be.
void shutting() {
  std::atomic<bool> over{false};
  std::atomic<int> late{0}, wakes{0};
  Mailbox mailbox([&] {
    ++wakes;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (over) ++late;
  });
  std::vector<std::thread> posters;
  for (int i = 0; i < 3; ++i) {
    posters.emplace_back([&] {
      while (!over) mailbox.post({1, Progress{}});
    });
  }
  // A reader that is quick: the box is empty again and again, and several posters are about to wake it.
  std::thread reader([&] {
    while (!over) mailbox.take();
  });
  while (wakes < 20) std::this_thread::yield();
  mailbox.shut();
  over = true;
  for (auto& poster : posters) poster.join();
  reader.join();
  expect(late == 0, "a reader was woken after its box was shut");
  expect(!mailbox.take(), "a box that is shut is not empty");
}

// A generation that comes while a learning runs is done before that learning's end.
void overtaking() {
  auto mailbox = std::make_shared<Mailbox>([] {});
  std::mt19937 random(1);
  Worker worker(*swap_engine(), [] {});
  worker.submit(std::make_shared<LoadCall>(1, load_request(), mailbox));
  auto endless = learn_request(random);
  endless.seed = 9001;
  auto learning = std::make_shared<LearnCall>(2, endless, mailbox);
  worker.submit(learning);
  auto one = generate_request(random);
  one.seeds = {1};
  worker.submit(std::make_shared<LearnCall>(3, learn_request(random), mailbox));
  worker.submit(std::make_shared<GenerateCall>(4, one, mailbox));
  std::vector<uint64_t> order;
  while (order.size() < 2) {
    while (auto message = mailbox->take()) {
      if (std::holds_alternative<Settled>(message->body)) order.push_back(message->id);
    }
    std::this_thread::yield();
  }
  expect(order == std::vector<uint64_t>{1, 4}, "the generation did not overtake the learnings");
  worker.cancel(learning);
}

// Beyond the limit the oldest progress is dropped, and of a job's checkpoints the newest is kept; what comes before and
// after keeps its order.
void flood() {
  int wakes = 0;
  Mailbox mailbox([&] { ++wakes; }, 64);
  for (int64_t i = 0; i < 1000; ++i) {
    Progress progress;
    progress.done = i;
    mailbox.post({1, progress});
    if (i % 100 == 0) mailbox.post({1, TrainerState{i, {}}});
  }
  mailbox.post({1, Settled{}});
  expect(wakes == 1, "woken while messages wait");
  int64_t progress = 0, checkpoints = 0, newest = -1, last = -1;
  bool settled = false;
  while (auto message = mailbox.take()) {
    expect(!settled, "an event came after the end");
    if (auto* it = std::get_if<Progress>(&message->body)) {
      expect(it->done > last, "progress out of order");
      last = it->done;
      ++progress;
    }
    if (auto* it = std::get_if<TrainerState>(&message->body)) {
      newest = it->step;
      ++checkpoints;
    }
    if (std::holds_alternative<Settled>(message->body)) settled = true;
  }
  expect(progress == 64 && last == 999, "not the newest 64 of the progress are kept");
  expect(checkpoints == 1 && newest == 900, "not the newest checkpoint alone is kept");
  expect(settled, "the end was dropped");
}

// Progress that more follows soon waits for it, once the reader was woken just before, and comes before what follows;
// anything else wakes at once.
void bundles() {
  int wakes = 0;
  Mailbox mailbox([&] { ++wakes; }, 64, std::chrono::hours(1));
  const auto post = [&](int64_t done, bool soon) {
    Progress progress;
    progress.done = done;
    progress.soon = soon;
    mailbox.post({1, progress});
  };
  const auto taken = [&] {
    std::vector<int64_t> all;
    while (auto message = mailbox.take()) {
      const auto* progress = std::get_if<Progress>(&message->body);
      all.push_back(progress ? progress->done : -1);
    }
    return all;
  };
  post(1, true);
  expect(wakes == 1, "the first progress waits");
  expect(taken() == std::vector<int64_t>{1}, "not the first progress");
  for (const int64_t done : {2, 3, 4}) post(done, true);
  expect(wakes == 1, "woken though more follows soon");
  post(5, false);
  expect(wakes == 2, "the last progress waits");
  wakes = 0;
  expect(taken() == std::vector<int64_t>{2, 3, 4, 5}, "progress that waited is out of order");
  expect(wakes == 3, "not woken once for each message that was left");
  wakes = 0;
  post(6, true);
  expect(wakes == 0, "woken though more follows soon, after the box was empty");
  mailbox.post({1, Settled{}});
  expect(wakes == 1, "the end waits");
  post(7, true);
  expect(wakes == 1, "woken a second time before the reader came");
  expect(taken() == std::vector<int64_t>{6, -1, 7}, "the end is out of order");

  wakes = 0;
  Mailbox eager([&] { ++wakes; }, 64, Mailbox::Clock::duration::zero());
  Progress progress;
  progress.soon = true;
  for (int i = 0; i < 2; ++i) eager.post({1, progress}), eager.take();
  expect(wakes == 2, "progress waits longer than the pause");
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 40;
  const unsigned seed = count > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 1;
  flood();
  bundles();
  overtaking();
  for (int i = 0; i < 20; ++i) shutting();
  for (int i = 0; i < rounds; ++i) round(seed + static_cast<unsigned>(i));
  std::printf("%d rounds, %d failures\n", rounds, failures);
  return failures == 0 ? 0 : 1;
}
