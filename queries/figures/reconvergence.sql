-- After a first mismatch that the router let pass, how often do the texts come together again, and the answers?
select r.*, p.size_ratio as ratio
from reconvergence r join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle' and router = 'all'
order by dataset, ratio, pair, entropy_low, within
