# ruff: noqa: TID253 - not a DAG: only Feast reads this file, where a step runs
"""Features of the flights example: the weather at the airport, and the plane.

This is an ordinary Feast repository: `feast apply` and `feast materialize` work in this folder if the environment
variable FLIGHTS_FEATURES_HOME is set.
"""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

# MaterializeFeaturesOperator publishes each month of weather, and the list of planes, into these folders.
SOURCES = os.path.join(os.environ["FLIGHTS_FEATURES_HOME"], "sources")

airport = Entity(
    name="airport", join_keys=["origin"], value_type=ValueType.STRING, description="Where a flight departs"
)
plane = Entity(
    name="plane", join_keys=["tailnum"], value_type=ValueType.STRING, description="A plane by its tail number"
)

weather = FeatureView(
    name="weather",
    description="Hourly weather at the airport of departure",
    entities=[airport],
    # An observation that is older than six hours is not used.
    ttl=timedelta(hours=6),
    schema=[
        Field(name="origin", dtype=String),
        Field(name="temp", dtype=Float64, description="Temperature, degrees Fahrenheit"),
        Field(name="dewp", dtype=Float64, description="Dew point, degrees Fahrenheit"),
        Field(name="humid", dtype=Float64, description="Relative humidity, percent"),
        Field(name="wind_dir", dtype=Float64, description="Wind direction, degrees"),
        Field(name="wind_speed", dtype=Float64, description="Wind speed, miles per hour"),
        Field(name="wind_gust", dtype=Float64, description="Speed of gusts, miles per hour"),
        Field(name="precip", dtype=Float64, description="Precipitation, inches"),
        Field(name="pressure", dtype=Float64, description="Pressure at sea level, millibars"),
        Field(name="visib", dtype=Float64, description="Visibility, miles"),
    ],
    source=FileSource(name="weather", path=os.path.join(SOURCES, "weather"), timestamp_field="time_hour"),
)

planes = FeatureView(
    name="planes",
    description="Properties of a plane, which do not change",
    entities=[plane],
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="plane_year", dtype=Int64, description="Year of manufacture"),
        Field(name="plane_type", dtype=String),
        Field(name="manufacturer", dtype=String),
        Field(name="engines", dtype=Int64, description="Number of engines"),
        Field(name="seats", dtype=Int64, description="Number of seats"),
        Field(name="engine", dtype=String, description="Kind of engine"),
    ],
    source=FileSource(
        name="planes",
        path=os.path.join(SOURCES, "planes"),
        timestamp_field="valid_from",
        # "year" and "type" would be ambiguous among the columns of a flight.
        field_mapping={"year": "plane_year", "type": "plane_type"},
    ),
)

delays = FeatureService(
    name="delays",
    description="What is known before departure in addition to the schedule",
    features=[weather, planes],
)
