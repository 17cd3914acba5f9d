"""What ``make deploy`` takes for a change; a real server sees it in tests/e2e."""

from itertools import count

from prefect.events.schemas.automations import AutomationCore

from image_longitudinal.deployments.alerts import alert_automations
from image_longitudinal.deployments.deploy import decisive_content


def test_the_order_of_events_is_no_change_of_an_automation() -> None:
    """Events are a set, and two whose hashes collide are listed in the order in which they were added."""
    first = "prefect.flow-run.Failed"
    others = (f"prefect.flow-run.{number}" for number in count())
    pair = next([first, other] for other in others if list({first, other}) != list({other, first}))
    (wanted, _) = alert_automations("6d5ec7f3-2a5b-4a4c-a4b5-6f0e9bb0b1a5")
    ways = [AutomationCore.model_validate(wanted) for _ in range(3)]
    for automation, events in zip(ways, (pair, pair[::-1], pair[:1]), strict=True):
        automation.trigger = automation.trigger.model_copy(update={"expect": set(events)})
    there, same, other = map(decisive_content, ways)
    assert ways[0].model_dump(mode="json") != ways[1].model_dump(mode="json"), "the case that this is about"
    assert there == same
    assert there != other
