from kdray.experiment.space import Space


def space_of(experiment) -> Space:
    return experiment.search.own_space
