// Asynchronous copies, and the count of bank conflicts.
//
// Shared memory has 32 banks of four bytes. A warp's 32-bit stores are one access; 16-byte accesses go eight lanes at a
// time. Lanes that write to one bank at different addresses make the access happen again. Lanes do not run in lock-step
// here, so each keeps a list of the addresses it wrote to, and when the warp meets the next time the first entries of
// all lists belong to one instruction, and so on.
#include <algorithm>
#include <cstring>

#include "block.h"

namespace simt {
namespace {

bool in_shared(const void* p) {
  const auto* byte = static_cast<const unsigned char*>(p);
  return byte >= current_block->shared && byte < current_block->shared + current_block->shared_bytes;
}
uint32_t offset(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - current_block->shared);
}

void land(const Copy& copy) {
  note_write(copy.to, 16);
  if (copy.bytes) note_read(copy.from, copy.bytes);
  const Quiet quiet;
  std::memset(copy.to, 0, 16);
  if (copy.bytes) std::memcpy(copy.to, copy.from, copy.bytes);
}

// Conflicts of one access by lanes [from, to): entry `index` of each list.
int repeats(Block& block, unsigned first, unsigned count, std::vector<uint32_t> Thread::*list, size_t index,
            unsigned width) {
  const unsigned groups = 128 / width;
  uint32_t seen[32][32];
  unsigned uses[32] = {}, most = 1;
  for (unsigned i = 0; i < count; ++i) {
    const auto& addresses = (*block.threads[first + i]).*list;
    if (index >= addresses.size()) continue;
    const uint32_t unit = addresses[index] / width, group = unit % groups;
    if (std::find(seen[group], seen[group] + uses[group], unit) != seen[group] + uses[group]) continue;
    seen[group][uses[group]++] = unit;
    most = std::max(most, uses[group]);
  }
  return static_cast<int>(most) - 1;
}

}  // namespace

void Block::met(unsigned warp) {
  size_t stores = 0, copies = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    stores = std::max(stores, threads[warp * 32 + lane]->stored.size());
    copies = std::max(copies, threads[warp * 32 + lane]->copied.size());
  }
  if (!stores && !copies) return;
  for (size_t i = 0; i < stores; ++i, counted.stores++)
    counted.conflicts += repeats(*this, warp * 32, 32, &Thread::stored, i, 4);
  for (size_t i = 0; i < copies; ++i)
    for (unsigned quarter = 0; quarter < 4; ++quarter, counted.copies++)
      counted.conflicts += repeats(*this, warp * 32 + quarter * 8, 8, &Thread::copied, i, 16);
  for (unsigned lane = 0; lane < 32; ++lane) {
    threads[warp * 32 + lane]->stored.clear();
    threads[warp * 32 + lane]->copied.clear();
  }
}

void note_store(const void* to, unsigned) {
  const Quiet quiet;
  if (in_shared(to)) current->stored.push_back(offset(to));
}

void copy_async(void* shared, const void* global, unsigned bytes) {
  const Copy copy{shared, global, bytes};
  {
    const Quiet quiet;
    if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
      fail("cp.async: an address that is not aligned to 16 bytes");
    if (!in_shared(shared)) fail("cp.async: not to shared memory");
    current->copied.push_back(offset(shared));
    if (options.copies_land_late) current->copies.push_back(copy);
  }
  // On hardware the copy may land at any time from now on.
  if (options.copies_land_late)
    note_write(shared, 16);
  else
    land(copy);
}

void wait_for_copies() {
  std::vector<Copy> copies;
  {
    const Quiet quiet;
    copies.swap(current->copies);
  }
  for (const Copy& copy : copies) land(copy);
}

}  // namespace simt
