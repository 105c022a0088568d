"""What usage costs, here and in Azure: billing rules, price lists, estimates."""

from greenroom.pricing.estimate import Estimate, estimate
from greenroom.pricing.prices import Prices

__all__ = ["Estimate", "Prices", "estimate"]
