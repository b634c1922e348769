"""Words to feature rows: TF-IDF of term counts, and its truncated SVD.

Assumptions: the Gram matrix of the terms fits in memory (a few thousand terms).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import eigsh

from framework.errors import InputError

_GRID = 256


def tf_idf(counts: Any) -> Any:
    """Counts of terms (scipy CSR [documents, terms]) weighted by rarity, rows of length 1; a row of zeros stays one.

    count * (ln((1 + documents) / (1 + documents with the term)) + 1): Salton and Buckley, "Term-weighting approaches in
    automatic text retrieval", 1988, smoothed as if one more document had every term."""
    documents, terms = counts.shape
    with_term = np.bincount(counts.indices, minlength=terms)
    rarity = np.log((1 + documents) / (1 + with_term)) + 1
    weights = counts.data * rarity[counts.indices]
    rows = np.repeat(np.arange(documents), np.diff(counts.indptr))
    lengths = np.sqrt(np.bincount(rows, weights * weights, minlength=documents))
    lengths[lengths == 0] = 1  # of counts that are stored, and 0
    return csr_matrix((weights / lengths[rows], counts.indices, counts.indptr), shape=counts.shape)


def truncated_svd(matrix: Any, columns: int) -> NDArray[np.float64]:
    """`matrix` (scipy CSR [n, terms]) along its `columns` strongest right singular vectors: float64 [n, columns].

    The vectors are eigenvectors of the Gram matrix, sought from a fixed start; the entry of each that is the largest in
    size is made positive. So the same matrix gives the same rows. Raises InputError for more columns than there are."""
    terms = matrix.shape[1]
    if not 1 <= columns < terms:
        raise InputError(f"columns is {columns}; expected 1 to {terms - 1}, fewer than the {terms} terms.")
    gram = (matrix.T @ matrix).toarray()
    _, vectors = eigsh(gram, k=columns, v0=np.full(terms, terms**-0.5))
    vectors = vectors[:, ::-1]  # the strongest first
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    rows: NDArray[np.float64] = matrix @ (vectors * np.sign(largest))
    return rows


def standardized(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Every column of `rows` [n, columns] moved to mean 0 and scaled to variance 1; a constant column becomes zeros.

    Rounded to multiples of 1/_GRID: a library's last bits, which depend on its number of threads, do not show."""
    spread = rows.std(axis=0)
    moved: NDArray[np.float64] = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return (np.round(moved * _GRID) / _GRID).astype(np.float32)
