import { ago, moment } from "./format";

/** How long ago something was; the exact time is in the tooltip. */
export const Ago = ({ time }: { time: string }) => (
  <time dateTime={time} title={moment(time)}>
    {ago(time)}
  </time>
);
