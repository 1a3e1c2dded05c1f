// Work on LibTorch's threads.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace swap::cpu {

// How many workers run_parallel has for so many items, at most.
int64_t worker_count(int64_t items);

// Calls run(item, worker) for every item, each by whichever worker is free. Denormal numbers are flushed to zero.
void run_parallel(int64_t items, c10::function_ref<void(int64_t item, int64_t worker)> run);

// Calls run(row) for every row of so many values: several rows an item, since little is not worth waking a thread for.
void run_rows(int64_t rows, int64_t width, c10::function_ref<void(int64_t row)> run);

// Calls run(item) for every one of several items, each on one thread: what it calls has no other.
void run_apart(int64_t items, c10::function_ref<void(int64_t item)> run);

// Calls lead() on this thread, whose loops here the others take items of without being woken (Team), and then run(item)
// for every item as run_apart() does, if lead() has not failed.
void run_led(
    c10::function_ref<void()> lead, int64_t items = 0, c10::function_ref<void(int64_t item)> run = [](int64_t) {});

// Whether this thread leads a team: a loop is worth dividing that is not worth waking a thread for.
bool in_team();

}  // namespace swap::cpu
