"""`/api/v1`: each route reads a request, asks the office, and answers; what it means stands in the modules beside.

Every route names the scope that its token needs, and every status that it can answer.
"""

# No `from __future__ import annotations`: FastAPI reads annotations that name what a function around them was given.

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, BaseModel

from hitl_stream.console import (
    bodies,
    checking,
    exceptions,
    figures,
    gates,
    proposing,
    quiz,
    reviewing,
    searching,
    stopping,
)
from hitl_stream.console.auth import Failures, address_of, begin_session, demand, identify, identify_browser
from hitl_stream.console.bodies import DIGEST, PATTERN, RECEIPT
from hitl_stream.console.office import Office, Who
from hitl_stream.console.people import Scope
from hitl_stream.console.problems import MEDIA_TYPE
from hitl_stream.console.store import WITHOUT_MAX, Order, Search
from hitl_stream.wire.records import time_text

PREFIX = "/api/v1"
ITEMS_MAX = 4
"""Handed out at once: one for the page, and the next three."""
FEEDBACK_MAX = 500
AFTER = r"^([0-9]{1,5}:[0-9]{1,18}(,[0-9]{1,5}:[0-9]{1,18})*)?$"
"""How far each partition was read, such as `0:812,1:640`."""
TITLES: Mapping[int, str] = {
    400: "The request cannot be read, or carries a cookie",
    401: "Nobody is signed in, or not any more",
    403: "Who is signed in may not do this",
    404: "There is no such thing for who is signed in",
    409: "It has changed meanwhile, or somebody else holds it",
    413: "The body is too long",
    421: "The request was meant for another host",
    422: "The request is understood, and wrong",
    429: "Too many wrong secrets came from this address",
    500: "An error of hitl itself",
    503: "Kafka or the database is away; nothing was written",
    504: "Nobody can tell whether it was written; ask again with the same id",
}
EVERYWHERE = (400, 401, 403, 413, 421, 422, 429, 500, 503)
bearer = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="A token from `hitl user token`, or the secret of a session. Cookies are for the console's own pages.",
)


def _text(text: str) -> str:
    if any(ord(one) < 32 or ord(one) == 127 or 0xD800 <= ord(one) < 0xE000 for one in text):
        raise ValueError("it holds a control character, or half of a character; expected text")
    return text


Name = Annotated[str, Path(min_length=1, max_length=200, pattern=PATTERN), AfterValidator(_text)]
Word = Annotated[str, Query(min_length=1, max_length=200, pattern=PATTERN), AfterValidator(_text)]
Like = Annotated[str, Query(max_length=200), AfterValidator(_text)]
After = Annotated[int, Query(ge=-1, le=2**53)]
ClassName = Annotated[str, Path(alias="class", min_length=1, max_length=200, pattern=PATTERN), AfterValidator(_text)]
LongName = Annotated[str, Path(min_length=1, max_length=700, pattern=PATTERN), AfterValidator(_text)]


class CallerDependency:
    """Says who asks, after looking whether their token is for this."""

    def __init__(self, office: Office, failures: Failures, scope: Scope | None) -> None:
        self.office, self.failures, self.scope = office, failures, scope

    async def __call__(
        self, request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
    ) -> Who:
        """Return who asks."""
        who = await self._who(request, shown)
        if self.scope is not None:
            demand(who, self.scope)
        return who

    async def _who(self, request: Request, shown: HTTPAuthorizationCredentials | None) -> Who:
        if shown is not None:
            return await identify(self.office, self.failures, shown.credentials, address_of(request))
        return await identify_browser(self.office, self.failures, request)


def answer(data: Any, status: int = 200) -> Response:
    """Return data as JSON, records in the bytes in which they were written."""
    return Response(msgspec.json.encode(data), status, media_type="application/json")


def documented(model: type[BaseModel] | None, status: int, *more: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route can answer: this, and a problem for everything else."""
    good: dict[str, Any] = {"description": "Done"} if model is None else {"model": model, "description": "Done"}
    problems: dict[int | str, dict[str, Any]] = {
        code: {
            "description": TITLES[code],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for code in sorted({*EVERYWHERE, *more})
    }
    return {status: good, **problems}


def router(office: Office, failures: Failures) -> APIRouter:
    """Return the routes over an office."""
    api = APIRouter(prefix=PREFIX)

    def needs(scope: Scope | None) -> Any:
        return Depends(CallerDependency(office, failures, scope))

    _sessions(api, office, failures, needs(None))
    _actions(api, office, needs)
    _items(api, office, needs(Scope.DECIDE), needs(Scope.QUEUES))
    _batches(api, office, needs(Scope.RELEASE_BATCH), needs(Scope.QUEUES))
    _pairs(api, office, needs(Scope.PAIRS))
    _control(api, office, needs)
    _vigilance(api, office, needs)
    return api


Needs = Callable[[Scope | None], Any]


# --- sessions ---------------------------------------------------------------------------------------------------------


def _sessions(api: APIRouter, office: Office, failures: Failures, anybody: Any) -> None:
    @api.post(
        "/sessions",
        status_code=201,
        tags=["people"],
        responses=documented(bodies.Session, 201),
        summary="Sign in",
    )
    async def sign_in(request: Request, ask: bodies.SignIn) -> Response:
        """Begin a session of at most eight hours. Its secret is told once, and is shown as a bearer token."""
        begun = await begin_session(office, failures, address_of(request), ask.name, ask.password)
        account = begun.session.account
        return answer(
            {
                "token": begun.secret,
                "until": time_text(begun.session.until_ms),
                "name": account.name,
                "roles": account.roles,
                "scopes": sorted(scope for scope in Scope if account.may_use(scope)),
            },
            201,
        )

    @api.delete("/sessions", status_code=204, tags=["people"], responses=documented(None, 204), summary="Sign out")
    async def sign_out(
        who: Annotated[Who, anybody], shown: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
    ) -> Response:
        """End the session whose secret is shown. A token is ended by an administrator."""
        if shown is not None:
            await office.people.sign_out(shown.credentials)
        return Response(status_code=204)

    @api.get("/me", tags=["people"], responses=documented(bodies.Me, 200), summary="Who am I?")
    async def me(who: Annotated[Who, anybody]) -> Response:
        """Say who shows this token, and what it is good for by now."""
        account, now_ms = who.account, office.clock_ms()
        qualified = {name: time_text(ms) for name, ms in account.qualifications.items() if ms > now_ms}
        return answer(
            {
                "name": account.name,
                "kind": account.kind.value,
                "roles": account.roles,
                "tenants": account.tenants,
                "scopes": sorted(who.scopes),
                "fresh": who.fresh,
                "qualified": qualified,
                "soon": figures.soon(who, now_ms),
                "watches": figures.watches(office, who),
            }
        )


# --- actions ----------------------------------------------------------------------------------------------------------


def _actions(api: APIRouter, office: Office, needs: Needs) -> None:
    @api.post(
        "/actions",
        status_code=202,
        tags=["actions"],
        responses=documented(bodies.Proposed, 202, 504),
        summary="Propose an action",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ProposedAction"}}},
            }
        },
    )
    async def propose(request: Request, who: Annotated[Who, needs(Scope.PROPOSE)]) -> Response:
        """Append an action, to be routed like any other. Who proposes it is who shows the token.

        The same bytes again are safe: the router drops what it has seen.
        """
        return answer(await proposing.propose(office, who, await request.body()), 202)

    @api.get(
        "/actions/{tenant}/{action_id:path}",
        tags=["actions"],
        responses=documented(bodies.Story, 200, 404),
        summary="What became of an action",
    )
    async def story(tenant: Name, action_id: Name, who: Annotated[Who, needs(Scope.READ)]) -> Response:
        """Tell the story of an action, in order."""
        return answer(await proposing.story(office, who, tenant, action_id))

    @api.post(
        "/actions/{tenant}/{action_id:path}/reverse",
        status_code=202,
        tags=["actions"],
        responses=documented(bodies.Proposed, 202, 404, 409, 504),
        summary="Propose what would undo an action",
    )
    async def reverse(
        tenant: Name, action_id: Name, ask: bodies.ReverseAsk, who: Annotated[Who, needs(Scope.PROPOSE)]
    ) -> Response:
        """Append the inverse of an executed action, in the caller's name, to be decided like any other.

        Nothing has changed yet. Its id follows from the old action: asked twice, it is proposed once.
        """
        return answer(await proposing.reverse(office, who, tenant, action_id, ask.reason), 202)

    @api.get(
        "/search",
        tags=["actions"],
        responses=documented(bodies.Hits, 200),
        summary="Find decided actions",
    )
    async def search(
        who: Annotated[Who, needs(Scope.READ)],
        tenant: Word | None = None,
        action_id: Word | None = None,
        account: Word | None = None,
        campaign: Word | None = None,
        reviewer: Word | None = None,
        limit: Annotated[int, Query(ge=1, le=searching.HITS_MAX)] = 50,
    ) -> Response:
        """Return decided actions that fit all that is asked, newest first; `more`: there are more than these."""
        wanted = Search(
            tenant="", action_id=action_id, account=account, campaign=campaign, reviewer=reviewer, limit=limit
        )
        hits, more = await searching.search(office, who, tenant, wanted)
        return answer({"hits": hits, "more": more, "stale_s": await reviewing.stale_s(office)})

    @api.get(
        "/feedback",
        tags=["actions"],
        responses=documented(bodies.Feedbacks, 200),
        summary="What people said",
    )
    async def feedback(
        who: Annotated[Who, needs(Scope.FEEDBACK)],
        after: Annotated[str, Query(max_length=20_000, pattern=AFTER)] = "",
        limit: Annotated[int, Query(ge=1, le=FEEDBACK_MAX)] = 100,
        agent: Word | None = None,
    ) -> Response:
        """Return rejections and changes, with reason and note, oldest first; a service learns of its own agent only.

        Of `limit` records read, those of other tenants and agents are left out.
        """
        rows, page = await proposing.feedback(office, who, _places(after), limit, agent)
        cursor = ",".join(f"{part}:{offset}" for part, offset in sorted(page.after.items()))
        return answer({"feedback": rows, "after": cursor, "more": page.more})


def _places(after: str) -> dict[int, int]:
    pairs = (one.split(":") for one in after.split(",") if one)
    return {int(part): int(offset) for part, offset in pairs}


# --- items ------------------------------------------------------------------------------------------------------------


def _items(api: APIRouter, office: Office, decider: Any, looker: Any) -> None:
    @api.get("/queues", tags=["review"], responses=documented(bodies.Queues, 200), summary="How full the queues are")
    async def queues(who: Annotated[Who, looker]) -> Response:
        """Return the queues, how many items wait, since when, and how much money."""
        return answer({"queues": await proposing.queues(office, who), "stale_s": await reviewing.stale_s(office)})

    @api.get("/reasons", tags=["review"], responses=documented(bodies.Reasons, 200), summary="Why somebody says no")
    async def reasons(who: Annotated[Who, looker]) -> Response:
        """Return the codes that a rejection or a change can name, in the policy's order."""
        known = office.policy().policy.reasons
        return answer({"reasons": [{"code": code, "error": error} for code, error in known.items()]})

    @api.get("/exceptions", tags=["review"], responses=documented(bodies.Exceptions, 200), summary="The exceptions")
    async def exceptions_(who: Annotated[Who, looker]) -> Response:
        """Return the policy's exception types and how many wait, and what could not be carried out and is the caller's.

        Of the latter at most two hundred, the most pressing first; `more`: there may be more.
        """
        return answer({**await exceptions.overview(office, who), "stale_s": await reviewing.stale_s(office)})

    @api.get(
        "/queues/{queue}/next",
        tags=["review"],
        responses=documented(bodies.Next, 200, 404),
        summary="Be given what is most pressing",
    )
    async def next_(
        queue: Name,
        who: Annotated[Who, decider],
        order: Order = "deadline",
        count: Annotated[int, Query(ge=1, le=ITEMS_MAX)] = 1,
        without: Annotated[list[Word], Query(max_length=WITHOUT_MAX)] = [],  # noqa: B006  FastAPI copies it
    ) -> Response:
        """Claim up to `count` items for two minutes each; `without` are items that were put aside."""
        found = await reviewing.next_items(office, who, queue, order, count, without)
        return answer({"items": found, "rest": reviewing.rest(office, who), "stale_s": await reviewing.stale_s(office)})

    @api.delete("/rest", status_code=204, tags=["review"], responses=documented(None, 204), summary="Go on now")
    async def go_on(who: Annotated[Who, decider]) -> Response:
        """Go on without the break that is due, for ten more items or minutes. It is noted in the log."""
        reviewing.go_on(office, who)
        return Response(status_code=204)

    @api.get("/items/{item}", tags=["review"], responses=documented(bodies.Item, 200, 404), summary="Look at an item")
    async def look(item: Name, who: Annotated[Who, looker]) -> Response:
        """Return an item; of one that the caller has judged, what that did."""
        return answer(await reviewing.look(office, who, item))

    @api.post(
        "/items/{item}/claim",
        tags=["review"],
        responses=documented(bodies.Claimed, 200, 404, 409),
        summary="Claim an item, or keep it",
    )
    async def claim(item: Name, who: Annotated[Who, decider]) -> Response:
        """Take an item for two minutes, or keep it for two more."""
        held = await reviewing.claim_item(office, who, item)
        return answer({"item": held.item, "until": time_text(held.until_ms)})

    @api.delete(
        "/items/{item}/claim",
        status_code=204,
        tags=["review"],
        responses=documented(None, 204, 409, 504),
        summary="Give a claim back",
    )
    async def unclaim(
        item: Name,
        who: Annotated[Who, decider],
        view: Annotated[str | None, Query(pattern=DIGEST)] = None,
        painted: Annotated[str | None, Query(pattern=RECEIPT)] = None,
    ) -> Response:
        """Leave an item. With the card's view and receipt, that it was looked at is noted."""
        await reviewing.skip(office, who, item, view, painted)
        return Response(status_code=204)

    @api.post(
        "/items/{item}/painted",
        tags=["review"],
        responses=documented(bodies.PaintedAt, 200, 404, 409),
        summary="Say that the card is on the page",
    )
    async def painted(item: Name, ask: bodies.Painted, who: Annotated[Who, decider]) -> Response:
        """Return a receipt with the time, which the verdict carries."""
        return _painted(await reviewing.painted(office, who, item, ask.view))

    @api.post(
        "/items/{item}/check",
        tags=["review"],
        responses=documented(bodies.Checked, 200, 404, 409),
        summary="Ask what a change would come to",
    )
    async def check(item: Name, ask: bodies.CheckAsk, who: Annotated[Who, decider]) -> Response:
        """Say whether changes can be made, and how the policy would route what results. Nothing is written."""
        return answer(await checking.check(office, who, item, ask))

    @api.post(
        "/items/{item}/verdict",
        status_code=202,
        tags=["review"],
        summary="Judge an item",
        responses=documented(bodies.Said, 202, 404, 409, 504),
    )
    async def verdict(item: Name, ask: bodies.VerdictAsk, who: Annotated[Who, decider]) -> Response:
        """Sign a verdict in the caller's name, and append it. What it did is told by the item a moment later.

        With an `id` of the client's own, sending it again is safe. 409: the item is another by now.
        """
        return _said(await reviewing.judge(office, who, item, ask))


def _painted(found: tuple[int, str]) -> Response:
    at_ms, receipt = found
    return answer({"painted": time_text(at_ms), "receipt": receipt})


def _said(found: reviewing.Said) -> Response:
    place = found.place
    told = {"id": found.id, "topic": place.topic, "partition": place.partition, "offset": place.offset}
    return answer(told, 202)


# --- batches and pairs ------------------------------------------------------------------------------------------------


def _batches(api: APIRouter, office: Office, releaser: Any, looker: Any) -> None:
    @api.get("/batches", tags=["review"], responses=documented(bodies.Batches, 200), summary="The batches")
    async def batches(who: Annotated[Who, looker]) -> Response:
        """Return the batches of the caller's queues, and whether they can release each; who only looks sees all."""
        return answer(
            {
                "batches": await reviewing.batches(office, who),
                "stale_s": await reviewing.stale_s(office),
            }
        )

    @api.post(
        "/batches/{batch:path}/painted",
        tags=["review"],
        responses=documented(bodies.PaintedAt, 200, 404, 409),
        summary="Say that the batch's card is on the page",
    )
    async def painted(batch: LongName, ask: bodies.Painted, who: Annotated[Who, releaser]) -> Response:
        """Return a receipt with the time, which the release carries."""
        return _painted(await reviewing.batch_painted(office, who, batch, ask.view))

    @api.post(
        "/batches/{batch:path}/release",
        status_code=202,
        tags=["review"],
        summary="Release a batch",
        responses=documented(bodies.Said, 202, 404, 409, 504),
    )
    async def release(batch: LongName, ask: bodies.ReleaseAsk, who: Annotated[Who, releaser]) -> Response:
        """Sign the release of a whole batch, over the root of its actions. It wants a fresh sign-in."""
        return _said(await reviewing.release_batch(office, who, batch, ask))


def _pairs(api: APIRouter, office: Office, labeller: Any) -> None:
    @api.get("/pairs/next", tags=["pairs"], responses=documented(bodies.NextPair, 200), summary="The next pair")
    async def next_(
        who: Annotated[Who, labeller],
        without: Annotated[list[Word], Query(max_length=WITHOUT_MAX)] = [],  # noqa: B006  FastAPI copies it
    ) -> Response:
        """Return a pair of outputs to be compared; which of them stands on the left is a coin toss.

        `without` are pairs that were put aside.
        """
        return answer({"pair": reviewing.next_pair(office, who, without)})

    @api.post(
        "/pairs/{pair}/painted",
        tags=["pairs"],
        responses=documented(bodies.PaintedAt, 200, 404, 409),
        summary="Say that the pair is on the page",
    )
    async def painted(pair: Name, ask: bodies.Painted, who: Annotated[Who, labeller]) -> Response:
        """Return a receipt with the time, which the verdict carries."""
        return _painted(reviewing.pair_painted(office, who, pair, ask.view))

    @api.post(
        "/pairs/{pair}/verdict",
        status_code=202,
        tags=["pairs"],
        summary="Say which output is better",
        responses=documented(bodies.Said, 202, 404, 409, 504),
    )
    async def verdict(pair: Name, ask: bodies.PairAsk, who: Annotated[Who, labeller]) -> Response:
        """Sign which of two outputs the caller prefers. Nothing runs by it."""
        return _said(await reviewing.prefer(office, who, pair, ask))


# --- control ----------------------------------------------------------------------------------------------------------


def _control(api: APIRouter, office: Office, needs: Needs) -> None:
    @api.get("/switches", tags=["control"], responses=documented(bodies.Switches, 200), summary="What is engaged")
    async def switches(who: Annotated[Who, needs(Scope.SWITCHES)]) -> Response:
        """Return the engaged kill switches that concern tenants of the caller's, and how far each is proved."""
        return answer(stopping.standing(office, who))

    @api.get(
        "/instances", tags=["control"], responses=documented(bodies.Instances, 200), summary="Who runs, and is heard"
    )
    async def instances(who: Annotated[Who, needs(Scope.SWITCHES)]) -> Response:
        """Return the control roles that speak, and the instances that acknowledge what they say."""
        return answer(stopping.instances(office, who))

    @api.get("/scopes", tags=["control"], responses=documented(bodies.Scopes, 200), summary="What a scope could name")
    async def scopes(who: Annotated[Who, needs(Scope.ENGAGE)], like: Like = "") -> Response:
        """Return names of campaigns, accounts, agents and so on that records lately had, for who types a scope."""
        return answer({"scopes": stopping.scopes(office, who, like)})

    @api.get("/live", tags=["control"], responses=documented(bodies.Live, 200), summary="The charts of the live page")
    async def live(who: Annotated[Who, needs(Scope.QUEUES)], after: After = -1) -> Response:
        """Return the points after a time, of the metrics that the setting `console_scrape` names."""
        return answer(stopping.live(office, who, after))

    @api.post(
        "/switches",
        status_code=202,
        tags=["control"],
        responses=documented(bodies.Appended, 202, 504),
        summary="Engage a kill switch",
    )
    async def engage(ask: bodies.EngageAsk, who: Annotated[Who, needs(Scope.ENGAGE)]) -> Response:
        """Stop what is in scope. Releasing it takes two operators' own keys: `hitl release`."""
        standing = await stopping.engage(office, who, ask)
        return answer({"epoch": standing.epoch, "at": time_text(standing.at_ms)}, 202)

    @api.post(
        "/commands",
        status_code=202,
        tags=["control"],
        responses=documented(bodies.Appended, 202, 504),
        summary="Pass on a command that was signed elsewhere",
    )
    async def command(ask: bodies.CommandAsk, who: Annotated[Who, needs(Scope.COMMANDS)]) -> Response:
        """Append a command to `control` as it is. Whether it counts is control's to say."""
        place = await stopping.pass_on(office, who, ask.jws)
        return answer({"epoch": place.offset, "at": time_text(place.at_ms)}, 202)


# --- vigilance --------------------------------------------------------------------------------------------------------


def _vigilance(api: APIRouter, office: Office, needs: Needs) -> None:
    @api.get("/me/figures", tags=["vigilance"], responses=documented(bodies.OwnFigures, 200), summary="My own figures")
    async def own(who: Annotated[Who, needs(Scope.DECIDE)]) -> Response:
        """Return how the caller reviews. Nobody else is told this of them by name."""
        return answer(await figures.own(office, who))

    @api.get("/watch", tags=["vigilance"], responses=documented(bodies.ReviewedQueues, 200), summary="Who still looks")
    async def watch(who: Annotated[Who, needs(Scope.QUEUES)]) -> Response:
        """Return how the reviewers of the caller's own queues do, by pseudonym."""
        return answer(await figures.watched(office, who))

    @api.get("/gates", tags=["vigilance"], responses=documented(bodies.Gates, 200), summary="The gates, and evidence")
    async def gates_(who: Annotated[Who, needs(Scope.QUEUES)]) -> Response:
        """Return the gates of the policy in force: their states, and what could be said for removing each."""
        return answer(gates.overview(office, who))

    @api.get("/quiz", tags=["vigilance"], responses=documented(bodies.Quizzes, 200), summary="The quizzes")
    async def quizzes(who: Annotated[Who, needs(Scope.DECIDE)]) -> Response:
        """Return the classes that the caller was ever qualified for, and how their quiz of each stands."""
        return answer({"classes": await quiz.overview(office, who), "passes": quiz.RIGHT, "of": quiz.ITEMS})

    @api.post(
        "/quiz/{class}",
        tags=["vigilance"],
        responses=documented(bodies.QuizState, 200, 409, 504),
        summary="Begin a quiz, or go on with it",
    )
    async def begin(class_: ClassName, who: Annotated[Who, needs(Scope.DECIDE)]) -> Response:
        """Return the question that is to be answered. Which items are spoilt is told by nothing."""
        return answer(await quiz.begin(office, who, class_))

    @api.post(
        "/quiz/{class}/answer",
        tags=["vigilance"],
        responses=documented(bodies.QuizState, 200, 409, 504),
        summary="Answer a question",
    )
    async def answer_(class_: ClassName, ask: bodies.QuizAsk, who: Annotated[Who, needs(Scope.DECIDE)]) -> Response:
        """Keep the answer, and return the next question, or the result. A question counts by its first answer."""
        return answer(await quiz.answer(office, who, class_, ask.quiz, ask.at, ask.approve))
