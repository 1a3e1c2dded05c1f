// node-addon-api, set up in one place for all files of the addon.
#pragma once

#ifndef NAPI_VERSION
#define NAPI_VERSION 8
#endif
#ifndef NAPI_CPP_EXCEPTIONS
#define NAPI_CPP_EXCEPTIONS
#endif
// std::bad_alloc and its like become JS exceptions as well.
#define NODE_ADDON_API_CPP_EXCEPTIONS_ALL
// A worker thread that is being terminated can neither throw nor catch; without this, that aborts the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
// Electron's memory cage forbids buffers outside of V8's heap.
#define NODE_API_NO_EXTERNAL_BUFFERS_ALLOWED

#include <napi.h>
