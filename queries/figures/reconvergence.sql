-- After a first mismatch that the router let pass, how often do the texts come together again, and the answers?
select r.*, p.ratio
from reconvergence r join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where method = 'oracle' and router = 'all'
order by dataset, ratio, pair, entropy_low, within
