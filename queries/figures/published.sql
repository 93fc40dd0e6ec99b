-- What does FS-GEN's published table say of CoF and the size ratio, and which law predicts what it was not fitted to?
select 'point' as kind, method, dataset, large_b / small_b as ratio, cof,
       null::varchar as law, null::double as loo_rmse, null::double as small_out_rmse
from scaling_points where source = 'published'
union all by name
select distinct 'curve' as kind, method, dataset, law, large_b / small_b as ratio, cof
from scaling_curves where source = 'published' and law in ('power', 'log_ratio')
union all by name
select 'error' as kind, method, dataset, law, loo_rmse, small_out_rmse
from scaling_fits where source = 'published'
order by kind, method, dataset, law, ratio, cof
