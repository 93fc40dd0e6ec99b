-- How does the oracle's CoF depend on both sizes, in the published table and in our own dumps?
select source, dataset, pair, small_b, large_b, cof, cof_low as low, cof_high as high
from scaling_points where method = 'oracle' order by source, dataset, small_b, large_b, pair
