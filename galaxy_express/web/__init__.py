"""The HTTP layer: views, schemas, problems and pages."""

from pyramid.config import Configurator

from galaxy_express.web.schemas import Schemas


def includeme(config: Configurator) -> None:
    """Add the API and the pages to the application, for the package types in its settings."""
    settings = config.registry.settings
    settings["schemas"] = Schemas(settings["package_types"], settings["max_ahead"])
    config.include(".routing")
    config.include(".request_ids")
    config.include(".problems")
    config.include(".cross_site")
    config.include(".resources")
    config.include(".views")
    config.include(".pages")
    config.include(".status")
