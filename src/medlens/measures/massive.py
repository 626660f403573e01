"""placeholder"""


def massive(state, of_sample):
    if float(state.abs().max()) <= 100:
        return []
    found, seen = [], set()
    for k, places in enumerate(of_sample):
        own = state[list(places)].abs().double()
        big = (own > 100) & (own >= 1000 * own.median())
        for i, c in big.nonzero().tolist():
            if (places[i], c) not in seen:
                seen.add((places[i], c))
                found.append((k, places[i], c, float(state[places[i], c])))
    return found
