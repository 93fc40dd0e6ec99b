"""Which texts share a pass of a model, so that all passes together take the least time."""

import numpy as np

# A pass reads all weights, which takes as long as computing on about so many tokens: measured 93 and 100 with
# 1.5 and 0.5 billion in bfloat16 on a CPU with matrix units; the ratio of rates is like that on a large card.
PASS_OVERHEAD_TOKENS = 100


def pack_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Indices of texts, grouped into passes of similar lengths at the least cost.

    A pass costs its tokens, padding included, and PASS_OVERHEAD_TOKENS. It holds at most `max_tokens` tokens,
    padding included; a longer text has a pass of its own.
    """
    order = np.argsort(lengths, kind="stable")
    # For each number of shortest texts: the least cost of reading them, and the first of their last pass.
    least_cost = np.zeros(len(order) + 1)
    first_of_last = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        firsts = np.arange(max(0, end - max(1, max_tokens // longest)), end)
        costs = least_cost[firsts] + PASS_OVERHEAD_TOKENS + (end - firsts) * longest
        least_cost[end], first_of_last[end] = costs.min(), firsts[costs.argmin()]
    batches, end = [], len(order)
    while end:
        batches.append(order[first_of_last[end] : end].tolist())
        end = first_of_last[end]
    return batches[::-1]
