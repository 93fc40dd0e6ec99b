-- What does proxy tuning change that the large model alone (oracle) would not, on the large model's text?
with compared as (
    select dataset, pair, any_value(small_id) as small_id,
           any_value(fused_id) filter (method = 'oracle') as oracle_id,
           any_value(fused_id) filter (method = 'proxy') as proxy_id
    from fused_tokens where writer = 'large' and in_answer and method in ('oracle', 'proxy')
    group by dataset, pair, prompt_id, turn, pos
), counted as (
    select dataset, pair, small_id, oracle_id, proxy_id, count(*) as times
    from compared where oracle_id <> proxy_id
    group by dataset, pair, small_id, oracle_id, proxy_id
    qualify row_number() over (partition by dataset, pair order by count(*) desc, small_id, oracle_id, proxy_id) <= 5
)
select c.dataset, c.pair, s.piece as small_says, l.piece as large_says, f.piece as proxy_says, times
from counted c join pairs p using (dataset, pair)
join vocabulary s on s.model = p.model and s.token_id = small_id
join vocabulary l on l.model = p.model and l.token_id = oracle_id
join vocabulary f on f.model = p.model and f.token_id = proxy_id
where p.role = 'large'
order by c.dataset, c.pair, times desc, small_id, oracle_id, proxy_id
