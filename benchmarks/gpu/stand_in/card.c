// A CUDA device that computes nothing: the runtime, the driver and cuBLAS as far as torch's CUDA build calls them.
//
// Memory is address space of the host, so that sizes are real and contents are not; only copies and fills of up to
// VALUES bytes happen. Kernels are counted, and refused where no card could launch them. All else is torch's own: its
// allocator, autograd's threads, streams, and the checks and workspaces of its C++ code.
//
// STAND_IN_CAPABILITY is the compute capability (90), STAND_IN_MIB the memory. Preloaded, it takes the place of libcuda,
// libcudart and libcublas.
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo

#define VALUES (1 << 20)
#define MOST_REGIONS 200000
#define PROCESSORS 132
#define API __attribute__((visibility("default")))
#define SUCCEEDS(name, ...) API cudaError_t name(__VA_ARGS__) { return 0; }
#define DOES_NOTHING(name) API int name() { return 0; }  // of the driver and cuBLAS, whose headers are not here

static size_t total_bytes = 143771ull << 20, used_bytes;
static int capability = 90;
static struct { char *start; size_t bytes; } regions[MOST_REGIONS];
static int num_regions;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
  const char *mib = getenv("STAND_IN_MIB"), *asked = getenv("STAND_IN_CAPABILITY");
  if (mib) total_bytes = strtoull(mib, 0, 10) << 20;
  if (asked) capability = atoi(asked);
}

static size_t shared_limit(void) { return capability >= 90 ? 232448 : capability >= 80 ? 101376 : 65536; }
static void *thing(void) { return calloc(1, 256); }  // what a handle points to

static void *space(size_t bytes) {
  void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return start == MAP_FAILED ? NULL : start;
}

static int takes(size_t bytes) {
  pthread_mutex_lock(&lock);
  int fits = used_bytes + bytes <= total_bytes;
  if (fits) used_bytes += bytes;
  pthread_mutex_unlock(&lock);
  return fits;
}

static void gives_back(size_t bytes) {
  pthread_mutex_lock(&lock);
  used_bytes -= bytes;
  pthread_mutex_unlock(&lock);
}

// ---- devices

API cudaError_t cudaGetDeviceCount(int *count) { *count = 1; return 0; }
API cudaError_t cudaGetDevice(int *device) { *device = 0; return 0; }
SUCCEEDS(cudaSetDevice, int device)
SUCCEEDS(cudaDeviceSynchronize, void)
SUCCEEDS(cudaGetLastError, void)
SUCCEEDS(cudaPeekAtLastError, void)
API cudaError_t cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
API cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
API const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "out of memory" : "refused"; }
API const char *cudaGetErrorName(cudaError_t e) { return "stand-in"; }

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "stand-in");
  p->major = capability / 10, p->minor = capability % 10;
  p->totalGlobalMem = total_bytes, p->multiProcessorCount = PROCESSORS, p->warpSize = 32, p->l2CacheSize = 60 << 20;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = shared_limit(), p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->unifiedAddressing = 1, p->textureAlignment = 512;
  return 0;
}

API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  switch ((int)attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = PROCESSORS; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = shared_limit(); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrL2CacheSize: *value = 60 << 20; break;
    default: *value = 0;
  }
  return 0;
}

API cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) { snprintf(text, length, "0000:00:00.0"); return 0; }
API cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int other) { *can = 0; return 0; }

// ---- memory

API cudaError_t cudaMalloc(void **start, size_t bytes) {
  *start = takes(bytes) ? space(bytes) : NULL;
  if (!*start) return cudaErrorMemoryAllocation;
  pthread_mutex_lock(&lock);
  regions[num_regions].start = *start, regions[num_regions++].bytes = bytes;
  pthread_mutex_unlock(&lock);
  return 0;
}

API cudaError_t cudaFree(void *start) {
  pthread_mutex_lock(&lock);
  for (int i = num_regions - 1; start && i >= 0; i--) {
    if (regions[i].start != start) continue;
    used_bytes -= regions[i].bytes;
    munmap(start, regions[i].bytes);
    regions[i] = regions[--num_regions];
    break;
  }
  pthread_mutex_unlock(&lock);
  return 0;
}

API cudaError_t cudaMemGetInfo(size_t *free, size_t *total) { *total = total_bytes, *free = total_bytes - used_bytes; return 0; }
API cudaError_t cudaHostAlloc(void **start, size_t bytes, unsigned flags) { *start = space(bytes); return 0; }
API cudaError_t cudaMallocManaged(void **start, size_t bytes, unsigned flags) { *start = space(bytes); return 0; }
API cudaError_t cudaGetSymbolAddress(void **start, const void *symbol) { *start = space(4096); return 0; }
SUCCEEDS(cudaFreeHost, void *start)
SUCCEEDS(cudaHostUnregister, void *start)
SUCCEEDS(cudaHostRegister, void *start, size_t bytes, unsigned flags)

API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
  memset(attributes, 0, sizeof *attributes);
  for (int i = 0; i < num_regions; i++) {
    if ((char *)pointer < regions[i].start || (char *)pointer >= regions[i].start + regions[i].bytes) continue;
    attributes->type = cudaMemoryTypeDevice, attributes->devicePointer = (void *)pointer;
  }
  return 0;
}

static cudaError_t copy(void *to, const void *from, size_t bytes) {
  if (bytes <= VALUES) memcpy(to, from, bytes);
  return 0;
}

API cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind k) { return copy(to, from, bytes); }
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind k, cudaStream_t s) {
  return copy(to, from, bytes);
}
API cudaError_t cudaMemcpyPeerAsync(void *to, int there, const void *from, int here, size_t bytes, cudaStream_t s) {
  return copy(to, from, bytes);
}
API cudaError_t cudaMemset(void *start, int value, size_t bytes) {
  if (bytes <= VALUES) memset(start, value, bytes);
  return 0;
}
API cudaError_t cudaMemsetAsync(void *start, int value, size_t bytes, cudaStream_t s) { return cudaMemset(start, value, bytes); }
SUCCEEDS(cudaMemcpyToSymbol, const void *symbol, const void *from, size_t bytes, size_t offset, enum cudaMemcpyKind k)

// ---- streams and events: all is done at once

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) { *s = thing(); return 0; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most) {
  if (least) *least = 0;
  if (most) *most = -5;
  return 0;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) { *status = 0; return 0; }
API cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *graph,
    const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges, size_t *count) {
  *status = 0;
  if (id) *id = 0;
  return 0;
}
SUCCEEDS(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode)
API cudaError_t cudaEventCreate(cudaEvent_t *event) { *event = thing(); return 0; }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { *event = thing(); return 0; }
API cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t a, cudaEvent_t b) { *milliseconds = 1.0f; return 0; }
SUCCEEDS(cudaStreamDestroy, cudaStream_t s)
SUCCEEDS(cudaStreamQuery, cudaStream_t s)
SUCCEEDS(cudaStreamSynchronize, cudaStream_t s)
SUCCEEDS(cudaStreamWaitEvent, cudaStream_t s, cudaEvent_t event, unsigned flags)
SUCCEEDS(cudaEventDestroy, cudaEvent_t event)
SUCCEEDS(cudaEventRecord, cudaEvent_t event, cudaStream_t s)
SUCCEEDS(cudaEventRecordWithFlags, cudaEvent_t event, cudaStream_t s, unsigned flags)
SUCCEEDS(cudaEventQuery, cudaEvent_t event)
SUCCEEDS(cudaEventSynchronize, cudaEvent_t event)

// ---- kernels: checked as a card checks them, and not run

static cudaError_t launched(dim3 grid, dim3 block, size_t shared) {
  size_t threads = (size_t)block.x * block.y * block.z;
  int fits = grid.x && grid.y <= 65535 && grid.z <= 65535 && threads && threads <= 1024 && shared <= shared_limit();
  static int told;
  if (fits) return 0;
  if (told++ < 20) fprintf(stderr, "stand-in: no card launches grid %u %u %u, block %u %u %u, %zu bytes of shared memory\n", grid.x,
                            grid.y, grid.z, block.x, block.y, block.z, shared);
  return cudaErrorInvalidConfiguration;
}

API cudaError_t cudaLaunchKernel(const void *k, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t s) {
  return launched(grid, block, shared);
}
API cudaError_t __cudaLaunchKernel(void *k, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t s) {
  return launched(grid, block, shared);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **args) {
  return launched(config->gridDim, config->blockDim, config->dynamicSmemBytes);
}
API cudaError_t __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return 0; }

static __thread struct { dim3 grid, block; size_t shared; void *stream; } pushed;
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
  pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *(void **)stream = pushed.stream;
  return 0;
}

API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024, attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = capability;
  return 0;
}
API cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value) {
  return value < 0 || (size_t)value <= shared_limit() ? 0 : cudaErrorInvalidValue;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned x) {
  *n = 2;
  return 0;
}

// ---- the driver

static int nothing() { return 0; }
API cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *result) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (!*function) *function = (void *)nothing;
  if (result) *result = 0;
  return 0;
}

DOES_NOTHING(cuInit)
API int cuDeviceGetCount(int *count) { *count = 1; return 0; }
API int cuDeviceGet(int *device, int number) { *device = 0; return 0; }
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
  return cudaDeviceGetAttribute(value, attribute, device);
}
API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0, *active = 1; return 0; }
API int cuDevicePrimaryCtxRetain(void **context, int device) { *context = thing(); return 0; }
API int cuCtxGetCurrent(void **context) { static char one[64]; *context = one; return 0; }
DOES_NOTHING(cuCtxSetCurrent)
API int cuGetErrorString(int error, const char **text) { *text = "stand-in"; return 0; }
API int cuGetErrorName(int error, const char **text) { *text = "stand-in"; return 0; }
API int cuDeviceGetUuid(void *id, int device) { memset(id, 1, 16); return 0; }
API int cuDeviceGetUuid_v2(void *id, int device) { memset(id, 1, 16); return 0; }

// expandable segments: address space is reserved, and memory counts once it is mapped
API int cuMemGetAllocationGranularity(size_t *bytes, void *properties, int option) { *bytes = 2 << 20; return 0; }
API int cuMemAddressReserve(uint64_t *start, size_t bytes, size_t alignment, uint64_t at, unsigned long long flags) {
  *start = (uint64_t)space(bytes);
  return 0;
}
API int cuMemAddressFree(uint64_t start, size_t bytes) { munmap((void *)start, bytes); return 0; }
API int cuMemCreate(uint64_t *handle, size_t bytes, void *properties, unsigned long long flags) {
  if (!takes(bytes)) return 2;  // CUDA_ERROR_OUT_OF_MEMORY
  size_t *size = malloc(sizeof *size);
  *size = bytes, *handle = (uint64_t)size;
  return 0;
}
API int cuMemRelease(uint64_t handle) {
  gives_back(*(size_t *)handle);
  free((void *)handle);
  return 0;
}
DOES_NOTHING(cuMemMap)
DOES_NOTHING(cuMemUnmap)
DOES_NOTHING(cuMemSetAccess)

DOES_NOTHING(cuFuncGetAttribute)
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuFuncSetCacheConfig)
DOES_NOTHING(cuLaunchCooperativeKernel)
DOES_NOTHING(cuLaunchKernel)
DOES_NOTHING(cuLinkAddData_v2)
DOES_NOTHING(cuLinkComplete)
DOES_NOTHING(cuLinkCreate_v2)
DOES_NOTHING(cuModuleGetFunction)
DOES_NOTHING(cuModuleLoad)
DOES_NOTHING(cuModuleLoadData)
DOES_NOTHING(cuModuleLoadDataEx)
DOES_NOTHING(cuModuleUnload)
DOES_NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
DOES_NOTHING(cuPointerGetAttribute)
DOES_NOTHING(cuTensorMapEncodeTiled)

// ---- cuBLAS

API int cublasCreate_v2(void **handle) { *handle = thing(); return 0; }
API int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
API int cublasGetPointerMode_v2(void *handle, int *mode) { *mode = 0; return 0; }
API size_t cublasLtGetVersion(void) { return 130000; }
API int cublasLtMatmulDescCreate(void **handle) { *handle = thing(); return 0; }
API int cublasLtMatrixLayoutCreate(void **handle) { *handle = thing(); return 0; }
API int cublasLtMatmulPreferenceCreate(void **handle) { *handle = thing(); return 0; }
API int cublasLtMatmulAlgoGetHeuristic(
    void *handle, void *description, void *a, void *b, void *c, void *d, void *preference, int wanted, void *found, int *n) {
  memset(found, 0, 96);
  *n = 1;
  return 0;
}
DOES_NOTHING(cublasDestroy_v2)
DOES_NOTHING(cublasSetMathMode)
DOES_NOTHING(cublasSetPointerMode_v2)
DOES_NOTHING(cublasSetStream_v2)
DOES_NOTHING(cublasSetWorkspace_v2)
DOES_NOTHING(cublasGemmEx)
DOES_NOTHING(cublasGemmStridedBatchedEx)
DOES_NOTHING(cublasSgemmEx)
DOES_NOTHING(cublasSgemmStridedBatched)
DOES_NOTHING(cublasSgemm_v2)
DOES_NOTHING(cublasSgemv_v2)
DOES_NOTHING(cublasDotEx)
DOES_NOTHING(cublasSdot_v2)
DOES_NOTHING(cublasDgemm_v2)
DOES_NOTHING(cublasDgemmStridedBatched)
DOES_NOTHING(cublasLtMatmul)
DOES_NOTHING(cublasLtMatmulDescDestroy)
DOES_NOTHING(cublasLtMatmulDescSetAttribute)
DOES_NOTHING(cublasLtMatmulPreferenceDestroy)
DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute)
DOES_NOTHING(cublasLtMatrixLayoutDestroy)
DOES_NOTHING(cublasLtMatrixLayoutSetAttribute)
