"""From sums kept by fold to values with what intervals are made from: each value again without each fold, in every variant."""
