-- How large is CoF for each pair, method and dataset, and what straight line in the log ratio describes it?
select 'point' as kind, dataset, method, pair, size_ratio as ratio, cof, low, high,
       null::boolean as identified
from points join pairs using (dataset, pair) where basis = 'dumps' and role = 'large'
union all by name
select distinct 'curve' as kind, dataset, method, large_b / small_b as ratio, curves.cof, identified
from curves join fits using (basis, dataset, method, law)
where basis = 'dumps' and law = 'log_ratio'
order by kind, dataset, method, ratio, pair, cof, identified
