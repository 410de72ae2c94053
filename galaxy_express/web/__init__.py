"""The HTTP layer: views, bodies, problems and pages."""

from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the API and the pages to the application, for the package types in its settings."""
    config.include(".routing")
    config.include(".request_ids")
    config.include(".problems")
    config.include(".cross_site")
    config.include(".resources")
    config.include(".views")
    config.include(".pages")
    config.include(".status")
