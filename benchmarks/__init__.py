"""How fast the service is: real servers under real load, beside a plain implementation.

``python -m benchmarks`` prints the figures, ``python -m benchmarks.growth`` those that
need millions of packages, and ``python -m benchmarks.profile`` where the time goes::

    __main__, growth,   what is measured, in which order, and the tables of it
    profile
      settings          how long, where, on which database
      conditions        on what the figures depend
      report            medians, ratios, Markdown
      service           a server, its database, and the load on it
        wrk, load.lua   the load generator, and what it sends
        audit           that what was answered is what is recorded
      raw_sqlite        what SQLite itself can do
      fill              millions of packages, quickly
      baseline          the plain implementation
      parts             the service with no more than some parts of a send
"""
