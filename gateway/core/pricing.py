"""What orders cost, in integer micro-dollars: sums of them are exact, however many there are."""

from gateway.core.catalog import Model, Settings, Team
from gateway.core.orders import Endpoint, Order, permitted_models, permitted_qualities, permitted_sizes


def price(order: Order, model: Model) -> int | None:
    """The whole order in micro-dollars: n times the price of one image; None if the config gives none.

    model: the entry of `order.model`. On edits the quality is the one that the config charges.
    """
    unit = model.prices.get((order.quality, order.size))
    return None if unit is None else order.n * unit


def cheapest(settings: Settings, team: Team, endpoint: Endpoint) -> list[Order]:
    """Every single image that the team may order there, the cheapest first, then by model, size and quality.

    What the look before the first body byte tries: if none of these fits its quota, no order will. Orders without
    a price come first, for no rule in dollars holds them. The orders' `fields` are empty.
    """
    priced = [
        (price(order, model) or 0, order.model, order.size, order.quality, order)
        for model in permitted_models(settings, team, endpoint)
        for size in permitted_sizes(model, team)
        for quality in permitted_qualities(model, team, endpoint)
        for order in (Order(endpoint=endpoint, model=model.alias, n=1, size=size, quality=quality),)
    ]
    return [entry[-1] for entry in sorted(priced, key=lambda entry: entry[:-1])]
