#include "library.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif
#ifdef __SSE2__
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <elf.h>

#include <fstream>
#endif

namespace swap::binding {

namespace {

#if defined(_WIN32)

using Handle = HMODULE;

std::string loader_error() {
  const DWORD number = GetLastError();
  char text[512] = {};
  FormatMessageA(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, nullptr, number, 0, text, sizeof(text) - 1,
                 nullptr);
  return std::string(text) + "(error " + std::to_string(number) + ")";
}

Handle open_library(const std::string& path) {
  const auto wide = std::filesystem::path(reinterpret_cast<const char8_t*>(path.c_str())).wstring();
  return LoadLibraryExW(wide.c_str(), nullptr, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_DEFAULT_DIRS);
}

void* find_symbol(Handle handle, const char* name) { return reinterpret_cast<void*>(GetProcAddress(handle, name)); }

void close_library(Handle handle) { FreeLibrary(handle); }

#else

using Handle = void*;

std::string loader_error() {
  const char* text = dlerror();
  return text ? text : "no reason given";
}

// RTLD_NOW: a wrong LibTorch is an error here, not a death at the first missing symbol.
Handle open_library(const std::string& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }

void* find_symbol(Handle handle, const char* name) { return dlsym(handle, name); }

void close_library(Handle handle) { dlclose(handle); }

#endif

// Linux's loader dies of SIGBUS on a library that was cut short, as a broken download is; so that is found before.
// The section table is the last thing in the file.
bool is_cut_short([[maybe_unused]] const std::string& path) {
#if defined(__linux__)
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = static_cast<uint64_t>(std::max<std::streamoff>(0, file.tellg()));
  Elf64_Ehdr header{};
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(&header), sizeof(header))) return false;  // the loader says what it is
  if (std::string_view(reinterpret_cast<char*>(header.e_ident), SELFMAG) != ELFMAG) return false;
  const uint64_t table = uint64_t{header.e_shnum} * header.e_shentsize;
  return header.e_shoff > size || table > size - header.e_shoff;
#else
  return false;
#endif
}

// The same file under two names is the same library.
std::string identity(const std::string& path) {
  std::error_code failed;
  auto real = std::filesystem::canonical(std::filesystem::path(reinterpret_cast<const char8_t*>(path.c_str())), failed);
  if (failed) return path;
  auto text = real.u8string();
  return {text.begin(), text.end()};
}

std::string joined(const std::vector<std::string>& paths) {
  std::string text;
  for (auto& path : paths) text += (text.empty() ? "" : ", ") + path;
  return text;
}

std::atomic<bool> libtorch_is_open{false};

// What this process has open. Never destroyed, as the libraries are never closed.
struct Registry {
  std::mutex mutex;
  std::optional<std::vector<std::string>> libtorch;
  std::string flavour;  // of the engines that use this LibTorch
  std::map<std::string, const EngineFactory*> engines;
};

Registry& registry() {
  static auto* const the_only = new Registry;
  return *the_only;
}

// The library, or why there is none.
Status open_one(const char* what, const std::string& path, const char* hint, Handle& handle) {
  const bool cut_short = is_cut_short(path);
  handle = cut_short ? nullptr : open_library(path);
  if (handle) return {};
  const std::string reason = cut_short ? "the file is cut short" : loader_error();
  return {"SWAP_LIBTORCH_LOAD", std::string("cannot open ") + what + " " + path + ": " + reason, hint};
}

Status other_flavour(const std::string& wanted, const std::string& present) {
  return {"SWAP_ENGINE_FLAVOUR", wanted + " cannot be used: this process has " + present + " open",
          "use one LibTorch in a process; another one needs another process"};
}

// Opens all or none: a library that stays behind from a failed try would be taken for the next try's by its name.
Status open_all(const std::vector<std::string>& paths, std::vector<Handle>& handles) {
  for (auto& path : paths) {
    Handle opened = nullptr;
    auto status =
        open_one("LibTorch's library", path, "run `npx swap setup`, or `npx swap doctor` to see what is found", opened);
    if (status.ok()) {
      handles.push_back(opened);
      continue;
    }
    for (auto handle = handles.rbegin(); handle != handles.rend(); ++handle) close_library(*handle);
    handles.clear();
    return status;
  }
  return {};
}

Status find_factory(Handle handle, const std::string& path, const EngineFactory*& factory) {
  using Entry = const EngineFactory* (*)() noexcept;
  const auto entry = reinterpret_cast<Entry>(find_symbol(handle, "swap_engine"));
  const char* hint = "install or build the addon and its engine library together";
  if (!entry) return {"SWAP_ENGINE_ABI", path + " is not an engine library: it has no symbol swap_engine", hint};
  factory = entry();
  if (!factory || factory->abi != kEngineAbi) {
    const auto found = factory ? std::to_string(factory->abi) : "none";
    factory = nullptr;
    return {"SWAP_ENGINE_ABI",
            path + " has engine interface " + found + ", this addon has " + std::to_string(kEngineAbi), hint};
  }
  return {};
}

}  // namespace

#if defined(_WIN32)

BriefWaiting::BriefWaiting() = default;
BriefWaiting::~BriefWaiting() = default;

#else

namespace {

std::mutex waiting_mutex;
int waiting = 0;  // how many there are
bool waiting_set = false;

constexpr const char *kPolicy = "OMP_WAIT_POLICY", *kSpins = "GOMP_SPINCOUNT";

// How often GNU's runtime looks in 50 microseconds. It pauses after each look, on some processors four times as long as
// on others.
long looks() {
  using Clock = std::chrono::steady_clock;
  constexpr long kPauses = 200;
  const auto begin = Clock::now();
  for (long i = 0; i < kPauses; ++i) {
#ifdef __SSE2__
    _mm_pause();
#endif
  }
  const auto taken = std::max<Clock::duration>(Clock::now() - begin, std::chrono::microseconds(1));
  return std::clamp<long>(kPauses * std::chrono::microseconds(50) / taken, 100, 2000);
}

}  // namespace

BriefWaiting::BriefWaiting() : counts_(!libtorch_is_open) {
  if (!counts_) return;
  std::lock_guard lock(waiting_mutex);
  if (waiting++ > 0 || std::getenv(kPolicy) || std::getenv(kSpins)) return;
  // The first is for all runtimes, and for GNU's where it has more threads than cores; the second for GNU's.
  setenv(kPolicy, "PASSIVE", 0), setenv(kSpins, std::to_string(looks()).c_str(), 0);
  waiting_set = true;
}

BriefWaiting::~BriefWaiting() {
  if (!counts_) return;
  std::lock_guard lock(waiting_mutex);
  if (--waiting > 0 || !std::exchange(waiting_set, false)) return;
  unsetenv(kPolicy), unsetenv(kSpins);
}

#endif

Status open_engine(const std::vector<std::string>& libraries, const std::string& engine,
                   const EngineFactory*& factory) {
  std::vector<std::string> libtorch;
  for (auto& path : libraries) libtorch.push_back(identity(path));
  for (auto& path : libraries) {
    // A bare name would be looked for along the system's paths.
    if (!std::filesystem::path(path).is_absolute()) {
      return {"SWAP_ENGINE_ARGUMENT", "options.libraries must hold absolute paths, got \"" + path + "\"", ""};
    }
  }
  if (!std::filesystem::path(engine).is_absolute()) {
    return {"SWAP_ENGINE_ARGUMENT", "options.engine must be an absolute path, got \"" + engine + "\"", ""};
  }

  Registry& open = registry();
  std::lock_guard lock(open.mutex);
  if (!libtorch.empty() && open.libtorch && *open.libtorch != libtorch) {
    return other_flavour("LibTorch at " + joined(libtorch), "LibTorch at " + joined(*open.libtorch));
  }
  const auto known = open.engines.find(identity(engine));
  if (known != open.engines.end()) {
    factory = known->second;
    return {};
  }

  std::vector<Handle> handles;
  if (!libtorch.empty() && !open.libtorch) {
    if (auto status = open_all(libraries, handles); !status.ok()) return status;
    open.libtorch = libtorch;
    libtorch_is_open = true;
  }
  Handle handle = nullptr;
  if (auto status = open_one("the engine library", engine,
                             "run `npx swap doctor` to see which LibTorch and engine are found", handle);
      !status.ok())
    return status;
  if (auto status = find_factory(handle, engine, factory); !status.ok()) {
    close_library(handle);
    return status;
  }
  if (!libtorch.empty()) {
    if (!open.flavour.empty() && open.flavour != factory->flavour) {
      auto status = other_flavour(std::string("the engine for ") + factory->flavour, "the engine for " + open.flavour);
      factory = nullptr;
      return status;
    }
    open.flavour = factory->flavour;
  }
  open.engines[identity(engine)] = factory;
  return {};
}

void pin_addon() {
#if defined(_WIN32)
  HMODULE self;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                     reinterpret_cast<LPCWSTR>(&pin_addon), &self);
#else
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&pin_addon), &self) && self.dli_fname) {
    dlopen(self.dli_fname, RTLD_LAZY | RTLD_NODELETE | RTLD_NOLOAD);
  }
#endif
}

}  // namespace swap::binding
