// SparseGPT's inner loop over a few features: what falls of one is made up for by those behind it.
//
// The weight is seen as (features, outputs). Outputs don't meet: a thread takes one, with its features in shared memory,
// where neighbouring threads read neighbouring banks. Products and differences are rounded apart, as numpy does, so
// the same numbers come out; see `Backend.spread_losses`.
//
// Specialised by -DDTYPE, F32 or F64.
#include "dtypes.cuh"

typedef DTYPE D;
typedef D::Score Score;
typedef D::Key Key;

const u32 OUTPUTS = 64;  // threads of a block: few, as there are not many outputs for a whole GPU
const u32 MOST = 32;     // features: they fill 40 KiB of shared memory in float64, and their flags one word

// Of `count` neighbouring features those that fall, as bits: the `fall` lowest keys, of equal ones the first.
__device__ __forceinline__ u32 lowest(const Key (*keys)[OUTPUTS], u32 count, u32 fall) {
  u32 falling = 0;
  for (u32 i = 0; i < count; i++) {
    const Key own = keys[i][threadIdx.x];
    u32 before = 0;
    for (u32 j = 0; j < count; j++) {
      const Key other = keys[j][threadIdx.x];
      before += other < own || (other == own && j < i);
    }
    falling |= (u32)(before < fall) << i;
  }
  return falling;
}

// Groups of `of` features keep `keep` of them; of a last group that is not whole `tail_falls` fall. With `of` 0 what
// falls is in `fallen` already.
extern "C" __global__ void __launch_bounds__(OUTPUTS)
    spread_losses(Score* left, u8* fallen, Score* lost, const Score* shares, const Score* diagonal, u32 features,
                  u64 outputs, u32 of, u32 keep, u32 tail_falls) {
  __shared__ Score values[MOST][OUTPUTS];
  __shared__ Key keys[MOST][OUTPUTS];
  __shared__ Score share[MOST * MOST];
  for (u32 i = threadIdx.x; i < features * features; i += OUTPUTS) share[i] = shares[i];
  __syncthreads();
  const u64 output = (u64)blockIdx.x * OUTPUTS + threadIdx.x;
  if (output >= outputs) return;

  u32 falls = 0;
  for (u32 row = 0; row < features; row++) {
    values[row][threadIdx.x] = left[row * outputs + output];
    falls |= (u32)(of == 0 && fallen[row * outputs + output] != 0) << row;
  }
  for (u32 row = 0; row < features; row++) {
    if (of && row % of == 0) {
      const u32 count = of < features - row ? of : features - row;
      for (u32 i = row; i < row + count; i++) {
        const Score ratio = D::quotient(values[i][threadIdx.x], diagonal[i]);
        keys[i][threadIdx.x] = magnitude<D>(D::key(D::product(ratio, ratio)));
      }
      falls |= lowest(keys + row, count, count == of ? of - keep : tail_falls) << row;
    }
    const bool fell = falls >> row & 1;
    const Score loss = fell ? values[row][threadIdx.x] : (Score)0;
    for (u32 later = row + 1; later < features; later++) {
      Score& value = values[later][threadIdx.x];
      value = D::difference(value, D::product(share[row * features + later], loss));
    }
    left[row * outputs + output] = values[row][threadIdx.x];
    lost[row * outputs + output] = loss;
    fallen[row * outputs + output] = fell;
  }
}
