"""The paper's projection of tokens by their top probabilities, with correct labels and no oversampling.

Shape legend: N tokens, K probabilities.
"""

import numpy as np

TOKENS = 1000  # of whole prompts, that a reader can still tell apart


def sample(prompt_N: np.ndarray, seed: int) -> np.ndarray:
    """Rows of whole prompts in a seeded order, as many as fit into TOKENS and one at least, bool [N]."""
    names, row_N, tokens_P = np.unique(prompt_N, return_inverse=True, return_counts=True)
    order_P = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    fitting = int((tokens_P[order_P].cumsum() <= TOKENS).sum())
    return np.isin(row_N, order_P[: max(fitting, 1)])


def pca(probability_NK: np.ndarray) -> np.ndarray:
    """The first two principal components, [N, 2]; each one's largest loading is positive.

    Zeros where all tokens have the same probabilities.
    """
    if not _has_spread(probability_NK):
        return np.zeros((len(probability_NK), 2))
    from sklearn.decomposition import PCA  # a second to import
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return PCA(n_components=2, svd_solver="full").fit_transform(probability_NK)


def tsne(probability_NK: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008) from the principal components on, [N, 2].

    On one thread, since sums over several depend on how many. Distances between groups and their
    sizes mean nothing in it; the number to read is a held-out AUROC. Zeros where all tokens have the
    same probabilities.
    """
    if not _has_spread(probability_NK):  # by which it would divide
        return np.zeros((len(probability_NK), 2))
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(probability_NK) - 1) / 3)
    with threadpool_limits(limits=1):
        return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(probability_NK)


def _has_spread(probability_NK: np.ndarray) -> bool:
    return bool(np.ptp(probability_NK, axis=0).max() > 0)
