-- How well do scores of the small model tell its mismatches with the large one from matches, on its own text?
with ratios as (
    select dataset, pair, size_ratio as ratio from pairs where role = 'large'
), widest as (select dataset, arg_max(pair, (ratio, pair)) as pair from ratios group by dataset)
select 'auroc' as kind, dataset, pair, ratio, score, null::double as x, value, value_low as low, value_high as high
from score_discrimination join ratios using (dataset, pair)
where method = 'oracle' and writer = 'small' and metric = 'auroc' and value is not null
union all by name
select 'calibration' as kind, dataset, pair, score, predicted_rate as x, observed_rate as value,
       observed_rate_low as low, observed_rate_high as high
from score_calibration join widest using (dataset, pair)
where method = 'oracle' and writer = 'small' and is_probability
union all by name
select 'lorenz' as kind, dataset, pair, score, share_of_tokens as x, share_of_mismatches as value,
       share_of_mismatches_low as low, share_of_mismatches_high as high
from score_lorenz join widest using (dataset, pair)
where method = 'oracle' and writer = 'small'
order by kind, dataset, ratio, pair, score, x, value
