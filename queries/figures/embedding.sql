-- Do mismatches lie apart from matches in the plane of the small model's top probabilities?
select e.dataset, e.pair, e.view, e.x, e.y, e.mismatch, p.ratio, d.value as auroc, d.low, d.high
from embedding e join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
left join (
    select * from discrimination where quantity = 'auroc'
    qualify score = max(score) filter (score in ('logistic', 'entropy')) over (partition by dataset, pair, method, writer)
) d using (dataset, pair, method, writer)
order by e.dataset, p.ratio, e.pair, e.view, e.prompt_id, e.turn, e.pos
