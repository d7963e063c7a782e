"""95 % intervals of counts and proportions."""

from scipy import stats


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion. Source: Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def poisson_interval(number: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson mean. Source: Garwood 1936, doi:10.1093/biomet/28.3-4.437."""
    tail = (1 - level) / 2
    low = float(stats.chi2.ppf(tail, 2 * number) / 2) if number else 0.0
    return low, float(stats.chi2.ppf(1 - tail, 2 * number + 2) / 2)
