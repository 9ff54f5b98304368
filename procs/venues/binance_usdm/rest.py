"""The listen key of the private stream, by plain REST. Source: Binance USD-M futures, "User Data Streams"."""

from __future__ import annotations

import orjson
import requests

from procs.budget import Budget
from procs.venues.binance_usdm.endpoints import Credentials, VenueUnreachable
from procs.venues.binance_usdm.paying import paying_session

_TIMEOUT_S = 5.0


def listen_key(rest_url: str, credentials: Credentials, budget: Budget, prolong: bool = False) -> str:
    """A listen key of the private stream, or with `prolong` the current one kept alive (it dies after 60 minutes).

    Raises VenueUnreachable (BudgetSpent when it was not asked). Needs the API key alone, so it can be asked for beside
    a busy trading session.
    """
    url = f"{rest_url}/fapi/v1/listenKey"
    try:
        method = "PUT" if prolong else "POST"
        with paying_session(budget) as session:
            answer = session.request(method, url, headers={"X-MBX-APIKEY": credentials.api_key}, timeout=_TIMEOUT_S)
        if answer.status_code != 200:
            raise VenueUnreachable(f"{method} {url}: HTTP {answer.status_code}")
        key = str(orjson.loads(answer.content).get("listenKey", ""))
        if not key and not prolong:
            raise VenueUnreachable(f"{method} {url}: an answer without a listen key")
        return key
    except (requests.RequestException, orjson.JSONDecodeError, AttributeError) as error:
        raise VenueUnreachable(f"{url}: {type(error).__name__}") from None
