// What a CPU build of PyTorch lacks for tensors that say they are on a card: a device guard with one device and one
// stream on which everything is done at once, hooks that say there is CUDA, and the choice of attention's kernel.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

using c10::Device, c10::DeviceIndex, c10::Stream;

namespace {

constexpr auto kind = c10::DeviceType::CUDA;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kind> {
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return Device(kind, 0); }
  Device exchangeDevice(Device) const override { return Device(kind, 0); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, Device(kind, 0)); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, Device(kind, 0)); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, Device(kind, 0)); }
};
Guard guard;
c10::impl::DeviceGuardImplRegistrar registrar(kind, &guard);

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)

// The conditions of aten/src/ATen/native/transformers/cuda/sdp_utils.cpp for a card of compute capability 8.0 or more.
using at::SDPBackend;
std::string asked = "math";

bool dense(const sdp::sdp_params& p) {
  return sdp::check_tensor_shapes(p, false) && sdp::check_nonzero_sequence_lengths_dense(p, false);
}

bool flash(const sdp::sdp_params& p) {
  const auto width = p.query.size(-1);
  return p.query.scalar_type() != at::kFloat && width == p.key.size(-1) && width == p.value.size(-1) && width <= 256 &&
      (!p.is_causal || p.query.size(-2) == p.key.size(-2)) && dense(p) &&
      sdp::check_batch_size_and_num_heads_dense<true>(p, false) && sdp::check_last_dim_stride_equals_1_dense<true>(p, false);
}

bool efficient(const sdp::sdp_params& p) {
  const int64_t unit = p.query.scalar_type() == at::kFloat ? 4 : 8;
  return p.query.size(-1) == p.key.size(-1) && p.query.size(-1) % unit == 0 && p.value.size(-1) % unit == 0 && dense(p) &&
      sdp::check_batch_size_and_num_heads_dense<false>(p, false) && sdp::check_last_dim_stride_equals_1_dense<false>(p, false);
}

// What is asked for is tried first: flash by itself stands for a kernel that knows windows, and is given no mask.
int64_t choice(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& mask,
               double dropout, bool causal, std::optional<double>, bool grouped) {
  const sdp::sdp_params p{q, k, v, mask, dropout, causal, grouped};
  const bool masked = mask.has_value() && asked != "flash";
  auto found = SDPBackend::math;
  if ((asked == "flash" || asked == "sdpa") && !masked && flash(p)) found = SDPBackend::flash_attention;
  else if (asked != "math" && efficient(p)) found = SDPBackend::efficient_attention;
  return static_cast<int64_t>(found);
}
const bool chosen = (at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choice), true);

}  // namespace

extern "C" void txcalc_attention(const char* name) { asked = name; }
