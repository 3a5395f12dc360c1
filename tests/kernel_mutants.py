"""Faults for the CUDA kernels, which the tests must notice: kernel_mutation.py tries them.

A fault that only shows where two threads really run at once is looked for by ThreadSanitizer. Fences that are missing
can't be seen on a CPU, and there is none among the faults.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A plausible fault: in `file`, `old`, which stands there once, becomes `new`.

    `tests` names those that are for it, as pytest's -k does; all that its file needs where it is empty. `races`: only
    ThreadSanitizer can see it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str = ""
    races: bool = False


BARRIER = "__syncthreads();"
FAR = "past_32_bits"
UNIT_PLANS = "cuda-on-cpu and (any_mix or as_one_by_one or nan_stops)"

MUTANTS = (
    # What falls moves what is behind it.
    Mutant("losses of equals from the end", "losses.cu", "&& j < i)", "&& j > i)", tests="losses and cpu"),
    Mutant(
        "losses without a tail", "losses.cu", "of < features - row ? of : features - row", "of", tests="losses and cpu"
    ),
    Mutant("losses of other outputs", "losses.cu", "if (output >= outputs) return;", ";", tests="losses and cpu"),
    # Ends of things.
    Mutant(
        "tail of a tile", "tensors.cuh", "first + e < size ? data[first + e]", "first + e + 1 < size ? data[first + e]"
    ),
    Mutant(
        "last tile forgotten", "tensors.cuh", "return (size + length - 1) / length;", "return size / length;", tests=FAR
    ),
    Mutant("stored past the end", "tensors.cuh", "&& first + WIDTH <= size) {", "&& first < size) {"),
    Mutant("last tensor not found", "tensors.cuh", "u32 low = 0, high = count;", "u32 low = 0, high = count - 1;"),
    Mutant("bools past the end", "outputs.cuh", "if (first + e < size) mask[first + e] =", "mask[first + e] ="),
    Mutant(
        "bools stored whole", "outputs.cuh", "(WIDTH - 1)) == 0 && first + WIDTH <= size) {", "(WIDTH - 1)) == 0) {"
    ),
    Mutant("bits past the end", "outputs.cuh", "if (first + 8 * byte < size) mask", "mask"),
    Mutant("loose bits in the last byte", "outputs.cuh", "if (first + e >= size) kept &= ~(1u << e);", ";"),
    Mutant(
        "last patch forgotten",
        "groups.cu",
        "if (begin + s * THREADS < patches)",
        "if (begin + s * THREADS + 1 < patches)",
    ),
    Mutant(
        "rest of a line pruned",
        "groups.cu",
        "filled ? options.fall : (u32)lines.tail_falls",
        "options.fall",
    ),
    Mutant("padding falls last", "groups.cu", ": (Key)-1;", ": 0;"),
    Mutant(
        "turn of elements too long",
        "units.cu",
        "i + (AT_ONCE - 1) * stride < length;",
        "i + (AT_ONCE - 2) * stride < length;",
    ),
    Mutant("run ends late", "units.cu", "if (column >= inner) {", "if (column > inner) {"),
    # Barriers.
    Mutant("no barrier after the ticket", "apply.cu", f"1ull);\n    {BARRIER}", "1ull);"),
    Mutant("no barrier after look-back", "apply.cu", f"{BARRIER}\n  return before;", "return before;"),
    Mutant("no barrier between tiles", "apply.cu", f"{BARRIER}  // all have read what is shared", "// all have read"),
    Mutant("no barrier in a scan", "reduce.cuh", f"parts[warp] = upto;\n  {BARRIER}", "parts[warp] = upto;"),
    Mutant("no barrier before counting a pass", "scopes.cuh", f"__threadfence();\n  {BARRIER}\n", "__threadfence();\n"),
    Mutant("no barrier after counting a pass", "scopes.cuh", f"== scope->tiles;\n  {BARRIER}", "== scope->tiles;"),
    Mutant("no barrier before collecting is over", "select.cu", f"{BARRIER}\n  const u32 held =", "const u32 held ="),
    Mutant("no barrier before keys are given away", "select.cu", f"(u64)held);\n  {BARRIER}", "(u64)held);"),
    Mutant("no barrier after bins are cleared", "select.cu", f"[i] = 0;\n    {BARRIER}", "[i] = 0;"),
    Mutant("no barrier before bins are given away", "select.cu", f"histogram) {{\n    {BARRIER}", "histogram) {"),
    Mutant(
        "no barrier in a fold", "units.cu", f"parts[row + half][place]);\n      {BARRIER}", "parts[row + half][place]);"
    ),
    # Ties and ranks.
    Mutant(
        "one tie too many falls",
        "apply.cu",
        "? scope.ties_fall - first : 0",
        "? scope.ties_fall - first + 1 : 0",
    ),
    Mutant("equal keys all fall", "apply.cu", "(u32)(key < threshold)", "(u32)(key <= threshold)"),
    Mutant("bits of a step at the wrong place", "apply.cu", "bits >> (s * WIDTH) &", "bits >> s &"),
    Mutant("end of the low ties", "select.cu", "k > below && k <= below + at_low)", "k > below && k < below + at_low)"),
    Mutant(
        "end of the candidates",
        "select.cu",
        "rank > before && rank <= before + here",
        "rank >= before && rank <= before + here",
    ),
    Mutant("bracket end counted twice", "select.cu", "key == high && high != low;", "key == high;"),
    Mutant("bracket end collected", "select.cu", "if (key > low && key < high)", "if (key > low && key <= high)"),
    Mutant("of equal members the last falls", "groups.cu", "keys[i] <= keys[j];", "keys[i] < keys[j];"),
    # Look-back.
    Mutant(
        "look-back stops a tile early",
        "apply.cu",
        "u64 end = tile; end > first_tile;",
        "u64 end = tile; end > first_tile + 1;",
    ),
    Mutant("look-back skips a tile", "apply.cu", "__ffs(knows) - 1 : 31;", "__ffs(knows) - 1 : 30;"),
    Mutant("look-back past the scope", "apply.cu", "end - first_tile > lane;", "end - first_tile >= lane;"),
    Mutant("own count published as prefix", "apply.cu", "(tile == first_tile ? PREFIX : OWN) | own", "PREFIX | own"),
    Mutant("prefix without own count", "apply.cu", "PREFIX | (found + own)", "PREFIX | found"),
    Mutant("a ticket for each warp", "apply.cu", "if (threadIdx.x == 0) ticket", "if ((threadIdx.x & 31) == 0) ticket"),
    Mutant(
        "ties published at the tensor's tile",
        "apply.cu",
        "[scope.first_tile + tensor.scope_tile + tile]",
        "[scope.first_tile + tile]",
    ),
    # Digits.
    Mutant(
        "digit at the wrong shift",
        "select.cu",
        "(u64)(threadIdx.x * each + b) << shift;",
        "(u64)(threadIdx.x * each + b) << (shift + 1);",
    ),
    Mutant(
        "higher digits not compared", "select.cu", "if (above < D::KEY_BITS && (key ^ prefix) >> above) return;", ""
    ),
    Mutant(
        "higher digits of samples not compared", "select.cu", ">> (shift + 7) >> 1 == 0;", ">> (shift + 7) >> 2 == 0;"
    ),
    Mutant("histogram not cleared", "select.cu", "histogram[threadIdx.x * each + b] = 0;", ""),
    Mutant("capacity not asked for", "select.cu", "if (place < capacity) candidates", "candidates"),
    Mutant("overflow of candidates not noticed", "select.cu", "between && between <= scope->capacity)", "between)"),
    Mutant(
        "candidates of the first scope",
        "select.cu",
        "counter.add(candidates[scope->candidates + i]);",
        "counter.add(candidates[i]);",
    ),
    # Numbers of 64 bits.
    Mutant(
        "first element in 32 bits", "tensors.cuh", "return tile * LENGTH +", "return (u32)(tile * LENGTH) +", tests=FAR
    ),
    Mutant(
        "byte of bits in 32 bits",
        "outputs.cuh",
        "*(u32*)(mask + first / 8)",
        "*(u32*)(mask + (u32)first / 8)",
        tests=FAR,
    ),
    Mutant(
        "scattered index in 32 bits",
        "units.cu",
        "const u64 here = index;\n    index += index_step;",
        "const u32 here = index;\n    index += index_step;",
        tests=FAR,
    ),
    Mutant(
        "start of a run in 32 bits",
        "units.cu",
        "const u64 start = piece.unit * length",
        "const u32 start = piece.unit * length",
        tests=FAR,
    ),
    Mutant(
        "first of a line in 32 bits",
        "groups.cu",
        "const u64 first = (row.whole",
        "const u32 first = (row.whole",
        tests=FAR,
    ),
    # Floating point.
    Mutant(
        "floats compared",
        "apply.cu",
        "(u32)(key < threshold)",
        "(u32)(D::score(key) < D::score(threshold))",
    ),
    Mutant("product flushed", "dtypes.cuh", "return unflushed_mul(a, b);", "return a * b;"),
    Mutant("signed zero counted", "dtypes.cuh", "return (Bits)(bits << 1) == 0;", "return bits == 0;"),
    Mutant(
        "sign of a product kept",
        "metrics.cuh",
        "magnitude<D>(D::key(D::product(D::score(D::widened_bits(bits)), gradient[index])))",
        "D::key(D::product(D::score(D::widened_bits(bits)), gradient[index]))",
    ),
    Mutant(
        "sums in float",
        "units.cu",
        "lanes[slot] = add_double(lanes[slot], term.term(held[s]",
        "lanes[slot] = (float)add_double(lanes[slot], term.term(held[s]",
    ),
    Mutant(
        "columns in float",
        "units.cu",
        "add_double(parts[row][place], parts[row + half][place])",
        "(float)add_double(parts[row][place], parts[row + half][place])",
    ),
    Mutant(
        "lanes folded from the near end",
        "sums.cuh",
        "u32 distance = team / 2; distance; distance /= 2",
        "u32 distance = 1; distance < team; distance *= 2",
    ),
    Mutant(
        "slots folded beside each other",
        "sums.cuh",
        "lanes[slot] = add_double(lanes[slot], lanes[slot + WIDTH / 2]);",
        "lanes[slot] = add_double(lanes[2 * slot], lanes[2 * slot + 1]);",
    ),
    Mutant(
        "chunks added backwards",
        "units.cu",
        "__shfl_sync(ALL_LANES, held, chunk)",
        "__shfl_sync(ALL_LANES, held, 31 - chunk)",
    ),
    # NaN.
    Mutant("NaN not seen while counting", "select.cu", "nan += key > D::INFINITY_KEY;", ""),
    Mutant("NaN not seen by digits", "select.cu", "nan |= key > D::INFINITY_KEY;", ""),
    Mutant("infinity taken for NaN", "select.cu", "nan += key > D::INFINITY_KEY;", "nan += key >= D::INFINITY_KEY;"),
    Mutant(
        "NaN with a random score",
        "metrics.cuh",
        "if (magnitude<D>(D::widened_bits(bits)) > D::INFINITY_KEY) return D::NAN_KEY;",
        "",
    ),
    Mutant(
        "pruned up to the NaN",
        "apply.cu",
        "if (scope.last_tensor >= first_nan) break;",
        "if (tensor.number >= first_nan) break;",
    ),
    Mutant(
        "NaN of a sum not counted", "units.cu", "if (units.nan && sum != sum) atomicAdd((u64*)units.nan, 1ull);", ""
    ),
    # Random streams, masks, options.
    Mutant("stream one output back", "metrics.cuh", "stream.output(seed, index + 1)", "stream.output(seed, index)"),
    Mutant(
        "jump with the new multiplier", "metrics.cuh", "c *= m + 1;\n        m *= m;", "m *= m;\n        c *= m + 1;"
    ),
    Mutant("written though not asked to", "outputs.cuh", "if (changed && write)", "if (changed)"),
    Mutant(
        "counted for the wrong tensor",
        "apply.cu",
        "counter.turn_to((u32)tensor.number);",
        "counter.turn_to((u32)tensor.scope);",
    ),
    Mutant("highest key of the last warp", "elements.cu", "atomicMax(&extremes[1], high);", "extremes[1] = high;"),
    # Plans of many tensors.
    Mutant(
        "blocks of the row before", "tensors.cuh", "rows[row + 1].first_block", "rows[row].first_block + 1", UNIT_PLANS
    ),
    Mutant(
        "rows of a table that is cut",
        "tensors.cuh",
        ", block = origin + blockIdx.x;",
        ", block = blockIdx.x;",
        UNIT_PLANS,
    ),
    Mutant(
        "unit of the slab before",
        "units.cu",
        "if (++unit < view.units) return here;",
        "++unit; return here;",
        UNIT_PLANS,
    ),
    Mutant("group of units not left", "units.cu", "    outer = 0;\n    group++;", "    outer = 0;", UNIT_PLANS),
    Mutant("units of what holds NaN", "units.cu", "if (tensor.number >= first_nan) return;", "", UNIT_PLANS),
    Mutant(
        "short units have chunks", "units.cu", "if (table[share.row].chunk_sums) add", "add", "units_of_several_chunks"
    ),
    Mutant("NaN of a random metric", "elements.cu", "if (nan) report_nan(header, tensor);", "", UNIT_PLANS),
    Mutant(
        "groups of what holds NaN",
        "groups.cu",
        "if (scanned && tensor.number >= header->first_nan) return;",
        "",
        UNIT_PLANS,
    ),
    Mutant("bits of the first word", "groups.cu", "(u32*)mask + first / 32", "(u32*)mask", UNIT_PLANS),
    Mutant("bits of what stays", "groups.cu", "const u32 falling = ~kept &", "const u32 falling = kept &", UNIT_PLANS),
    Mutant("bits not set before", "groups.cu", "(1u << WIDTH) - 1);\n  });", "0);\n  });", UNIT_PLANS),
    Mutant(
        "zeros that stay are counted",
        "groups.cu",
        "found.nonzero += (kept >> e & 1) && !is_zero(runs[r].at[e]);",
        "found.nonzero += kept >> e & 1;",
        UNIT_PLANS,
    ),
    Mutant("counts of groups by row", "groups.cu", "&counts[tensor.number]", "&counts[share.row]", UNIT_PLANS),
    # Races, which ThreadSanitizer sees.
    Mutant(
        "plain sum of counts", "reduce.cuh", "atomicAdd(word, sum);", "*word += sum;", "ties_published_before", True
    ),
    Mutant(
        "plain place among the collected",
        "select.cu",
        "atomicAdd(&collected.count, 1u)",
        "collected.count++",
        "candidates_of_neighbouring",
        True,
    ),
    Mutant(
        "plain bins",
        "select.cu",
        "atomicAdd(&digits.bins[(threadIdx.x >> 5) & 1][run_bin], run);",
        "digits.bins[(threadIdx.x >> 5) & 1][run_bin] += run;",
        "ties_published_before",
        True,
    ),
)


def with_fault(name: str, source: str) -> str:
    """A family's source, in which its includes stand in place, with the named fault, if that part of it is there.

    Raises:
        LookupError: there is no such mutant, or the source holds its old text more than once.
    """
    for mutant in MUTANTS:
        if mutant.name == name:
            if source.count(mutant.old) > 1:
                raise LookupError(f"{name}: the text to replace stands there more than once")
            return source.replace(mutant.old, mutant.new)
    raise LookupError(f"no mutant is called {name}")
