"""``python -m lineside.subscribers.callback_host``: the process of one callback."""

from lineside.subscribers.callback_host.worker import run_worker

if __name__ == "__main__":
    run_worker()
