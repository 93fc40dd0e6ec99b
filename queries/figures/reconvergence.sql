-- After a first mismatch that was not routed, how often do the texts reconverge, and how often do the answers agree?
select r.*, p.size_ratio as ratio
from reconvergence r join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle' and router = 'all'
order by dataset, ratio, pair, entropy_low, r.window
