-- How large is CoF for each pair, method and dataset, and what straight line in the log ratio describes it?
select 'point' as kind, dataset, method, pair, size_ratio as ratio, cof, cof_low as low, cof_high as high,
       null::boolean as identified
from scaling_points join pairs using (dataset, pair) where source = 'dumps' and role = 'large'
union all by name
select distinct 'curve' as kind, dataset, method, large_b / small_b as ratio, scaling_curves.cof, identified
from scaling_curves join scaling_fits using (source, dataset, method, law)
where source = 'dumps' and law = 'log_ratio'
order by kind, dataset, method, ratio, pair, cof, identified
