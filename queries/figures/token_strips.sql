-- What did the large model write, how uncertain was the small one at each token, and what did it predict?
with chosen as (
    select dataset, arg_max(pair, (size_ratio, pair)) as pair, arg_max(model, (size_ratio, pair)) as model
    from pairs where role = 'small' group by dataset
), asked as (
    select dataset, prompt_id from prompts where split = 'test'
    qualify row_number() over (partition by dataset order by "order") <= 2
), read as (
    select s.dataset, s.pair, model, s.prompt_id, s.pos, s.mismatch, s.entropy, r.token_id, r.logsumexp,
           r.top_ids, r.top_logits
    from router_scores s join chosen using (dataset, pair) join asked using (dataset, prompt_id)
    join teacher_forced r using (dataset, pair, prompt_id, turn, pos)
    where s.method = 'oracle' and s.writer = 'large' and r.writer = 'large' and r.reader = 'small'
), listed as (
    select dataset, prompt_id, pos, list(piece order by rank) as pieces, list(probability order by rank) as probabilities
    from (
        select dataset, model, prompt_id, pos, unnest(top_ids[:10]) as token_id,
               exp(unnest(top_logits[:10]) - logsumexp) as probability, unnest(range(10)) as rank
        from read
    ) join vocabulary using (model, token_id) group by all
)
select dataset, pair, prompt_id, pos, piece, entropy, mismatch, pieces, probabilities
from read join vocabulary using (model, token_id) join listed using (dataset, prompt_id, pos)
order by dataset, prompt_id, pos
