-- How does the oracle's CoF depend on both sizes, in the published table and in our own dumps?
select basis, dataset, pair, small_b, large_b, cof, low, high
from points where method = 'oracle' order by basis, dataset, small_b, large_b, pair
