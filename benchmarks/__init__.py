"""Benchmarks: real servers under real load, compared with other servers.

``make bench`` measures rates, latencies and CPU time, and compares them with goals.
``make bench-growth`` measures the effect of millions of packages. ``make bench-instances``
measures what a send costs on PostgreSQL, and calculates what higher rates need.
``make bench-profile`` measures the cost of each part of a send. ``OPTIONS=--help`` lists their
options. All of them need wrk, Linux, and an otherwise idle machine.

To compare with an earlier revision of this repository, name it. Both revisions are then
measured alternately in one run::

    make bench OPTIONS='--against v1.0 --rounds 5'

The modules::

    __main__, growth,   the measurements, their order, and the tables
    instances, profile,
    recipient_index
      settings          the options: duration, folder, database
      conditions        the machine, the disk and the database
      report            medians, ratios, goals, Markdown
      service           a server, its database, and load on it
        revisions       this revision of the repository, and others
        wrk, load.lua   the load generator, and the load
        processor       the CPU time of processes
        audit           compares the responses with the database
      raw_sqlite        SQLite alone, without the service
      fill              inserts millions of packages
      baseline          a plain implementation with the ORM, under gunicorn's gevent worker
      bare              a WSGI function that does nothing, under gunicorn's gevent worker
      parts             the service with only some parts of a send

Servers are started and stopped with the helpers in ``tests/servers``. Nothing else here depends on
the tests.
"""
