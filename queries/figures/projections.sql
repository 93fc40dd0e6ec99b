-- Do mismatches lie apart from matches in the plane of the small model's top probabilities?
select e.dataset, e.pair, e.projection, e.x, e.y, e.mismatch, p.size_ratio as ratio, d.value as auroc,
       d.value_low as low, d.value_high as high
from projections e join pairs p using (dataset, pair)
left join (
    select * from score_discrimination where metric = 'auroc'
    qualify score = max(score) filter (score in ('logistic', 'entropy')) over (partition by dataset, pair, method, writer)
) d using (dataset, pair, method, writer)
where p.role = 'large'
order by e.dataset, ratio, e.pair, e.projection, e.prompt_id, e.turn, e.pos
