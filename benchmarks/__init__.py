"""How fast the service is: real servers under real load, compared with other servers.

``make bench`` measures rates, latencies and processor time, and compares them with goals.
``make bench-growth`` measures what millions of packages change. ``make bench-profile``
measures what each part of a send costs. Each of them takes options, and
``OPTIONS=--help`` lists them. All need wrk and Linux, and a machine that does nothing else.

To compare with an earlier revision of this repository, name it. Both revisions are then
measured in turn, in one run::

    make bench OPTIONS='--against v1.0 --rounds 5'

The modules::

    __main__, growth,   what is measured, in which order, and the tables
    profile
      settings          how long, where, on which database
      conditions        the machine, the disk and the database
      report            medians, ratios, goals, Markdown
      service           a server, its database, and load on it
        revisions       this revision of the repository, and others
        wrk, load.lua   the load generator, and what it sends
        processor       how much processor time processes take
        audit           compares the answers with the database
      raw_sqlite        what SQLite can do alone
      fill              millions of packages, quickly
      baseline          a plain implementation with the ORM, under gunicorn's gevent worker
      bare              a WSGI function that does nothing, under gunicorn's gevent worker
      parts             the service with only some parts of a send

Servers are started, awaited and stopped by the classes that the tests of servers use.
Nothing else here needs the tests.
"""
