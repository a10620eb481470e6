"""The whole method a second time, after the paper, for one kind of model: plain transformers, NumPy, SciPy and segment-anything.

`answers` is section 3.2 (Eq. 1 and 2), `response` section 3.3 (Eq. 3 to 8), `refinement` section 3.4 (Eq. 9 to 12 and the prompts),
`masks` Eq. 13 and the label map, `method` the chain. Nothing here knows the packages that it is compared with: where they and it agree,
two readings of the paper agree. Choices that the paper leaves open are marked [open]; they are those of the packages' documentation.
"""
