"""moto's server on 127.0.0.1, one request at a time: moto_serial.py PORT

moto looks for a key and writes it in two steps. With a thread for each request, as its own program has,
two conditional creates of one key can both succeed.
"""

import sys

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

run_simple(
    "127.0.0.1",
    int(sys.argv[1]),
    DomainDispatcherApplication(create_backend_app),
    threaded=False,
    request_handler=MotoRequestHandler,
)
