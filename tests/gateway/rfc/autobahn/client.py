"""Runs the Autobahn test suite's cases against a server and prints each case's verdicts, a line for each."""

import asyncio
import sys

from kosoku import FailureError, run_fuzzingclient

# 9.3 to 9.8 and the larger messages of 12 and 13 measure speed; they take minutes and judge nothing else.
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.*", "9.2.*", "10.*"]
CASES += [f"12.{group}.{case}" for group in range(1, 6) for case in (1, 2)]
CASES += [f"13.{group}.{case}" for group in range(1, 8) for case in (1, 2)]


async def main():
    try:
        results = await run_fuzzingclient(sys.argv[1], CASES, None, concurrency=8)
    except FailureError as failure:
        results = failure.results
    for result in results:
        print(result.case_id, "|", result.behavior.value, "|", result.behavior_close.value, "|", result.remote_close_code)


asyncio.run(main())
