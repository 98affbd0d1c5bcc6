import { metricMeaning } from "./terms";

/** The recorded name of a metric, with its meaning as a tooltip. */
export const MetricName = ({ name }: { name: string }) => {
  const meaning = metricMeaning(name);
  return meaning === undefined ? (
    <>{name}</>
  ) : (
    <abbr style={{ textDecoration: "underline dotted" }} title={meaning}>
      {name}
    </abbr>
  );
};
