"""A fleet that was found, as the profile from which it was made."""

from heliostat.cluster.planner.fleet import Fleet
from heliostat.cluster.profile import Profile
from heliostat.config import to_yaml, validate


def written(profile: Profile, fleet: Fleet) -> str:
    """The profile as YAML, without keys that have their defaults, with the numbers of a fleet in its groups."""
    return to_yaml(applied(profile, fleet).model_dump(mode="json", exclude_unset=True))


def applied(profile: Profile, fleet: Fleet) -> Profile:
    """The profile with the numbers of a fleet in its groups."""
    data = profile.model_dump(mode="json", exclude_defaults=True)
    found = {group.name: group for group in fleet.groups}
    for group in data["groups"]:
        of = found[group["name"]]
        group |= {"min": of.least, "max": of.most, "idle_seconds": int(of.idle_seconds)}
    return validate(data, Profile)
